// A button that gives files to the kernel, one after the other. The kernel asks for each piece: no message is larger than
// a server takes, and none is sent before the one before it was written. See uploading.py.

function render({ model, el }) {
  const button = document.createElement("button");
  const input = document.createElement("input");
  const files = new Map();
  const waiting = [];
  el.dataset.lmSuppressShortcuts = "true";
  el.classList.add("oraculo-pane", "oraculo-upload");
  button.type = "button";
  button.className = "oraculo-button";
  input.type = "file";
  input.multiple = true;
  input.hidden = true;

  function name() {
    button.textContent = model.get("label");
    button.title = model.get("hint");
  }

  function next() {
    if (files.size || !waiting.length) return;
    const file = waiting.shift();
    const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
    files.set(key, file);
    model.send({ file: key, name: file.name, size: file.size });
  }

  function add(list) {
    waiting.push(...list);
    next();
  }

  async function told(content) {
    const file = files.get(content.file);
    if (!file) return;
    if (content.stop) {
      files.delete(content.file);
      next();
      return;
    }
    let piece = new ArrayBuffer(0);
    try {
      piece = await file.slice(content.from, content.to).arrayBuffer();
    } catch {
      // A folder, or a file that was changed since it was chosen: the kernel says that it is not whole.
    }
    model.send({ file: content.file, end: piece.byteLength === 0 }, undefined, [piece]);
  }

  const chosen = () => {
    add([...input.files]);
    input.value = "";
  };
  const over = (event) => {
    event.preventDefault();
    event.stopPropagation();
    el.classList.toggle("oraculo-over", event.type === "dragover");
    if (event.type === "drop") add([...event.dataTransfer.files]);
  };
  button.addEventListener("click", () => input.click());
  input.addEventListener("change", chosen);
  for (const kind of ["dragover", "dragleave", "drop"]) el.addEventListener(kind, over);
  model.on("change:label change:hint", name);
  model.on("msg:custom", told);
  name();
  el.append(button, input);
  return () => {
    model.off("change:label change:hint", name);
    model.off("msg:custom", told);
  };
}

export default { initialize, render };
