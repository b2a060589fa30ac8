// Stands before the script of each widget of ours; see scripted.py.
//
// anywidget (0.11) gives a model two seconds to load its script. Where the browser took longer, that model passes on nothing
// of what the kernel says from then on, though its view is drawn: an explorer that never answers. So each widget asks its
// model whether it hears, and if it does not, connects it anew and has its state sent again.

async function keepHearing({ model }) {
  for (const id of model.get("heard")) {
    const whole = await model.widget_manager.get_model(id);
    const nothing = { content: { data: { method: "" } } };
    whole._handle_comm_msg(nothing).catch(() => {
      const hear = Object.getPrototypeOf(whole.constructor.prototype)._handle_comm_msg;
      whole.comm.on_msg((message) => hear.call(whole, message));
      whole.comm.send({ method: "request_state" }, {});
    });
  }
}

const initialize = (context) => {
  // Programs other than JupyterLab may have no such manager, and no such haste.
  keepHearing(context).catch(() => {});
};

