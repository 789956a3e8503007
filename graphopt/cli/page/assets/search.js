// Finding ops of the shown pass by anything that is written about them.

const search = {
  text: "",
  hits: new Set(),
  order: [],
  at: -1,

  start() {
    const box = byId("query");
    box.addEventListener("input", () => this.find(box.value));
    box.addEventListener("keydown", (e) => {
      if (e.key === "Enter") {
        e.preventDefault();
        this.step(e.shiftKey ? -1 : 1);
      }
      if (e.key === "Escape") {
        box.value = "";
        this.find("");
        box.blur();
      }
    });
    document.addEventListener("keydown", (e) => {
      if (e.key === "/" && !/^(INPUT|TEXTAREA)$/.test(document.activeElement.tagName) && !e.ctrlKey && !e.metaKey) {
        e.preventDefault();
        box.focus();
        box.select();
      }
      if (e.key === "Escape" && document.activeElement !== box && app.state.node !== null) app.go({node: null});
    });
  },

  /** All words must be found, anywhere. */
  find(text) {
    this.text = text.trim().toLowerCase();
    this.again();
    this.at = -1;
    this.say();
    app.render();
  },

  again() {
    const words = this.text.split(/\s+/).filter(Boolean);
    const ops = words.length
      ? model.view(app.pass().snapshot).ops.filter((op) => words.every((w) => model.haystack(op).includes(w)))
      : [];
    this.order = ops.map((op) => op.number);
    this.hits = new Set(this.order);
  },

  step(by) {
    if (!this.order.length) return;
    const current = this.order.indexOf(app.state.node);
    this.at = current >= 0 ? (current + by + this.order.length) % this.order.length : by > 0 ? 0 : this.order.length - 1;
    this.say();
    app.go({node: this.order[this.at]});
  },

  say() {
    byId("found").textContent = !this.text
      ? ""
      : !this.order.length
        ? "nothing"
        : this.at >= 0
          ? `${this.at + 1} of ${this.order.length}`
          : plural(this.order.length, "op");
  },
};
