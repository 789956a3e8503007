// The passes in order; those that changed nothing fold into one line between those that did.

const passList = {
  opened: new Set(),

  render(host) {
    const slowest = Math.max(...model.passes.map((p) => p.seconds || 0), 1e-9);
    const items = [];
    let idle = [];
    const flush = () => {
      if (!idle.length) return;
      const key = idle[0].id,
        isOpen = this.opened.has(key) || idle.some((p) => model.passes[app.state.pass] === p);
      items.push(
        el(
          "button",
          {
            type: "button",
            class: "pass idle",
            "aria-expanded": String(isOpen),
            onclick: () => {
              if (isOpen) this.opened.delete(key);
              else this.opened.add(key);
              this.render(host);
            },
          },
          `${isOpen ? "▾" : "▸"} ${idle.length === 1 ? `${idle[0].name} changed nothing` : `${idle.length} changed nothing`}`,
        ),
      );
      if (isOpen) items.push(...idle.map((p) => this.item(p, slowest)));
      idle = [];
    };
    for (const p of model.passes) {
      if (p.captured || p.changed || p === model.passes[model.last]) {
        flush();
        items.push(this.item(p, slowest));
      } else idle.push(p);
    }
    const time = model.data.passes.reduce((sum, p) => sum + p.seconds, 0);
    host.replaceChildren(
      el("h2", {}, "Passes ", el("span", {class: "muted small"}, seconds(time))),
      el("div", {class: "list"}, items),
    );
    host.classList.toggle("shown", Boolean(this.shown));
  },

  item(p, slowest) {
    const index = model.passes.indexOf(p),
      view = model.view(p.snapshot),
      c = model.changes(p);
    const on = index === app.state.pass,
      final = index === model.last;
    return el(
      "button",
      {
        type: "button",
        class: "pass" + (p.changed || p.captured || final ? "" : " unchanged"),
        "aria-current": on ? "true" : false,
        "data-pass": p.id,
        onclick: () => {
          this.shown = false;
          app.go({pass: index, tab: "graph", diff: app.state.diff && p.changed});
        },
      },
      el(
        "span",
        {class: "pass-name"},
        final ? "finished" : p.name,
        p.title !== p.name && !final && el("span", {class: "muted small"}, ` ${p.run}`),
      ),
      el("span", {class: "muted small number right"}, p.captured ? "" : seconds(p.seconds)),
      el("span", {class: "muted small"}, plural(view.ops.length, "op")),
      badges(c.added, c.removed.length, c.altered) || el("span"),
      !p.captured && el("span", {class: "bar thin"}, el("i", {style: {width: Math.max(1, (100 * p.seconds) / slowest) + "%"}})),
    );
  },
};
