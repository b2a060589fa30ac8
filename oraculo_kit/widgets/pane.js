// Shows the tree that `oraculo_kit.widgets.nodes` builds. A text becomes a text node and nothing else: no HTML is parsed
// here, no address is followed, nothing is fetched. Tags and attributes are those of nodes.py; what is not listed is left out.

const TAGS = new Set(
  ("article aside button caption code dd del details div dl dt em footer h3 h4 h5 header hr img input ins li mark " +
    "nav ol p pre progress section small span strong summary table tbody td th thead time tr ul").split(" "),
);
const ATTRIBUTES = new Set(
  "checked class colspan dir disabled lang max min name open role rowspan scope tabindex title type value".split(" "),
);
const WALKS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1, Home: -Infinity, End: Infinity };

function build(tree, send) {
  if (typeof tree === "string") return document.createTextNode(tree);
  if (!TAGS.has(tree.tag)) return document.createTextNode("");
  const element = document.createElement(tree.tag);
  if (tree.tag === "button") element.type = "button";
  if (tree.tag === "img") {
    if (!/^[A-Za-z0-9+/=]*$/.test(tree.png)) return document.createTextNode("");
    element.src = "data:image/png;base64," + tree.png;
    element.alt = tree.alt;
  }
  // A button that cannot be used now stays reachable, so that the keyboard's focus is not lost with it.
  const isIdle = tree.tag === "button" && "disabled" in (tree.attributes ?? {});
  if (isIdle) element.setAttribute("aria-disabled", "true");
  for (const [name, value] of Object.entries(tree.attributes ?? {})) {
    if (isIdle && name === "disabled") continue;
    if (ATTRIBUTES.has(name) || name.startsWith("aria-")) element.setAttribute(name, value);
  }
  if (tree.key) element.dataset.key = tree.key;
  if (tree.reveal) element.dataset.reveal = "";
  if (tree.width !== undefined) element.style.width = `${tree.width * 100}%`;
  if (tree.arrows) element.addEventListener("keydown", (event) => walk(event, element));
  if (tree.copy !== undefined && !isIdle) element.addEventListener("click", () => copy(tree.copy, element));
  if (tree.event && !isIdle) {
    const isInput = tree.tag === "input";
    element.addEventListener(isInput ? "change" : "click", () =>
      send({ event: tree.event, payload: tree.payload ?? null, ...(isInput && { checked: element.checked }) }),
    );
  }
  for (const child of tree.children ?? []) element.append(build(child, send));
  return element;
}

function walk(event, list) {
  const step = WALKS[event.key];
  if (step === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
  const places = [...list.querySelectorAll("button:not(:disabled), input:not(:disabled)")].filter(
    (one) => one.type === document.activeElement?.type || one === document.activeElement,
  );
  const at = places.indexOf(document.activeElement);
  if (at < 0) return;
  event.preventDefault();
  places[Math.min(Math.max(at + step, 0), places.length - 1)].focus();
}

async function copy(text, element) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // A page that is not served by https or from this machine has no clipboard object.
    const area = document.createElement("textarea");
    area.value = text;
    area.style.cssText = "position:fixed;opacity:0";
    element.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    element.focus();
  }
  element.classList.add("oraculo-copied");
  setTimeout(() => element.classList.remove("oraculo-copied"), 1500);
}

function render({ model, el }) {
  const root = document.createElement("div");
  const hides = document.createElement("style");
  // In command mode a letter or an arrow typed on a button would be a command of the notebook.
  el.dataset.lmSuppressShortcuts = "true";
  el.append(hides, root);
  const send = (content) => model.send(content);
  const find = (key) => root.querySelector(`[data-key="${CSS.escape(key)}"]`);

  function show() {
    const focused = root.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    const scrolled = [...root.querySelectorAll("[data-key]")]
      .filter((one) => one.scrollTop)
      .map((one) => [one.dataset.key, one.scrollTop]);
    const opened = [...root.querySelectorAll("details[data-key][open]")].map((one) => one.dataset.key);
    root.className = model.get("classes");
    root.replaceChildren(...model.get("children").map((tree) => build(tree, send)));
    for (const key of opened) find(key)?.setAttribute("open", "");
    for (const [key, top] of scrolled) {
      const element = find(key);
      if (element) element.scrollTop = top;
    }
    for (const element of root.querySelectorAll("[data-reveal]")) {
      const around = element.parentElement.closest("[data-key]");
      if (around) around.scrollTop = element.offsetTop - (around.clientHeight - element.offsetHeight) / 3;
    }
    if (focused) find(focused)?.focus({ preventScroll: true });
  }

  function hide() {
    const name = model.get("static_class");
    // The static summary stands in the notebook for those who have no live view.
    hides.textContent = /^[\w-]+$/.test(name)
      ? `.jp-OutputArea-child:has(.${name}), .${name} { display: none !important; }`
      : "";
  }

  function told(content) {
    if (content.focus) find(content.focus)?.focus();
  }

  model.on("change:children change:classes", show);
  model.on("change:static_class", hide);
  model.on("msg:custom", told);
  show();
  hide();
  return () => {
    model.off("change:children change:classes", show);
    model.off("change:static_class", hide);
    model.off("msg:custom", told);
  };
}

export default { initialize, render };
