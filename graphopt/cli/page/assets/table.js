// Every call of a kernel in a table, or every kernel with its calls added up.

const kernelTable = {
  sort: "seconds",
  down: true,
  merged: false,

  rows() {
    const {steps, kernels, profile} = model.data;
    const rows = steps.map((s, k) => {
      const r = profile ? profile.rows[k] : {};
      const op = model.view(model.passes[model.last].snapshot).byNumber.get(s.op);
      return {
        step: k,
        number: s.op,
        op,
        name: op ? model.label(op) : `${s.name} (copies an output)`,
        kind: op ? model.kindOf(op) : "movement",
        kernel: s.kernel !== undefined ? kernels[s.kernel].name : s.control || "evaluator",
        source: op ? op.module || op.locs.join(", ") : "",
        calls: 1,
        ...r,
      };
    });
    if (!this.merged) return rows;
    const groups = new Map();
    for (const r of rows) push(groups, r.kernel === "evaluator" ? `evaluator ${r.name}` : r.kernel, r);
    return [...groups.values()].map((g) => ({
      ...g[0],
      calls: g.length,
      seconds: sum(g, "seconds"),
      operations: sum(g, "operations"),
      weights: sum(g, "weights"),
      activations: sum(g, "activations"),
      floor: g.some((r) => r.floor === null) ? null : sum(g, "floor"),
    }));
  },

  columns() {
    const timed = Boolean(model.data.profile),
      floors = timed && Boolean(model.data.profile.peaks);
    return [
      {id: "step", title: this.merged ? "first" : "step", of: (r) => r.step, show: (r) => r.step, number: true},
      this.merged && {id: "calls", title: "calls", of: (r) => r.calls, show: (r) => r.calls, number: true},
      {id: "name", title: "computes", of: (r) => r.name, show: (r) => el("span", {class: "name k-" + r.kind}, r.name)},
      {id: "source", title: "source", of: (r) => r.source, show: (r) => el("span", {class: "muted"}, r.source)},
      timed && {id: "seconds", title: "time", of: (r) => r.seconds, show: (r) => seconds(r.seconds), number: true},
      timed && {
        id: "share",
        title: "share",
        of: (r) => r.seconds,
        number: true,
        show: (r) => [
          el("span", {class: "number"}, percent(r.seconds / model.total)),
          el(
            "span",
            {class: "bar"},
            el("i", {style: {width: (100 * r.seconds) / Math.max(...this.shown.map((s) => s.seconds)) + "%"}}),
          ),
        ],
      },
      floors && {id: "floor", title: "floor", of: (r) => r.floor || 0, show: (r) => seconds(r.floor), number: true},
      floors && {
        id: "roof",
        title: "roofline",
        of: (r) => (r.floor ? r.floor / r.seconds : 0),
        show: (r) => (r.floor ? percent(r.floor / r.seconds) : "–"),
        number: true,
      },
      floors && {
        id: "lost",
        title: "above floor",
        of: (r) => (r.floor === null ? r.seconds : r.seconds - r.floor),
        show: (r) => (r.floor === null ? "–" : seconds(Math.max(0, r.seconds - r.floor))),
        number: true,
      },
      timed && {
        id: "rate",
        title: "GFLOP/s",
        of: (r) => r.operations / r.seconds,
        show: (r) => (r.operations ? digits(r.operations / r.seconds / 1e9) : "–"),
        number: true,
      },
      timed && {
        id: "band",
        title: "GB/s",
        of: (r) => (r.weights + r.activations) / r.seconds,
        show: (r) => digits((r.weights + r.activations) / r.seconds / 1e9),
        number: true,
      },
      floors && {id: "bound", title: "bound", of: (r) => r.bound || "", show: (r) => r.bound || "–"},
      {id: "kernel", title: "kernel", of: (r) => r.kernel, show: (r) => el("code", {}, r.kernel)},
    ].filter(Boolean);
  },

  render(host) {
    this.host = host;
    const columns = this.columns();
    const sorting = columns.find((c) => c.id === this.sort) || columns[0];
    this.shown = this.rows().filter((r) => !search.text || (r.op && search.hits.has(r.number)));
    this.shown.sort((a, b) => {
      const [x, y] = [sorting.of(a), sorting.of(b)];
      return (this.down ? -1 : 1) * (typeof x === "number" ? x - y : String(x).localeCompare(String(y))) || a.step - b.step;
    });
    const head = columns.map((c) =>
      el(
        "th",
        {
          class: c.number ? "right" : "",
          scope: "col",
          "aria-sort": c === sorting ? (this.down ? "descending" : "ascending") : false,
        },
        el(
          "button",
          {
            type: "button",
            onclick: () => {
              if (this.sort === c.id) this.down = !this.down;
              else [this.sort, this.down] = [c.id, Boolean(c.number) && c.id !== "step"];
              this.render(host);
            },
          },
          c.title,
          el("span", {class: "arrow", "aria-hidden": "true"}, c === sorting ? (this.down ? "▾" : "▴") : ""),
        ),
      ),
    );
    const body = this.shown.map((r) =>
      el(
        "tr",
        {
          class: r.number === app.state.node ? "selected" : "",
          tabindex: "0",
          "data-step": r.step,
          onclick: () => r.op && app.go({node: r.number, pass: model.last}),
          onkeydown: (e) => {
            if (e.key === "Enter" && r.op) app.go({node: r.number, pass: model.last});
          },
        },
        columns.map((c) => el("td", {class: c.number ? "right" : c.id === "source" ? "long" : ""}, c.show(r))),
      ),
    );
    const choose = (label, merged) =>
      el(
        "button",
        {
          type: "button",
          "aria-pressed": String(this.merged === merged),
          onclick: () => {
            this.merged = merged;
            this.render(host);
          },
        },
        label,
      );
    put(
      host,
      el(
        "div",
        {class: "toolbar"},
        el("strong", {}, `${plural(model.data.steps.length, "call")} of ${plural(model.data.kernels.length, "kernel")}`),
        el("span", {class: "muted"}, callWords()),
        el("span", {class: "spacer"}),
        el(
          "span",
          {class: "segmented", role: "group", "aria-label": "Rows"},
          choose("each call", false),
          choose("each kernel", true),
        ),
      ),
      el(
        "div",
        {class: "scroller"},
        el("table", {class: "kernels"}, el("thead", {}, el("tr", {}, head)), el("tbody", {}, body)),
        !this.shown.length && el("p", {class: "muted pad"}, "No kernel fits the search."),
      ),
    );
  },

  select() {
    this.render(this.host);
  },
};

const sum = (rows, key) => rows.reduce((total, r) => total + (r[key] || 0), 0);

/** What a whole call takes, in words. */
function callWords() {
  const p = model.data.profile;
  return p
    ? `a whole call ${seconds(p.call)}, the steps ${seconds(model.total)} (medians of ${p.runs} runs, ${plural(p.threads, "thread")})`
    : "nothing was measured";
}
