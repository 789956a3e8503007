// What is known of one op: type, layout, where it comes from, why it is as it is, what it costs, and its code.

const details = {
  render(host) {
    const pass = app.pass(),
      view = model.view(pass.snapshot);
    const op = view.byNumber.get(app.state.node);
    host.hidden = !op;
    document.body.classList.toggle("with-details", Boolean(op));
    if (!op || host.dataset.shown === `${op.record} ${pass.id}`) return;
    host.dataset.shown = `${op.record} ${pass.id}`;
    host.scrollTop = 0;
    const mark = model.changes(pass).marks.get(op.number);
    put(
      host,
      el(
        "div",
        {class: "head"},
        el(
          "div",
          {},
          el("h2", {class: "k-" + model.kindOf(op)}, model.label(op)),
          el("div", {class: "value"}, op.results.map((r) => "%" + r.name).join(", ")),
          el("div", {}, op.name === "fused" && tag("fused"), mark && tag(`${mark} by ${pass.title}`, mark)),
        ),
        el(
          "button",
          {type: "button", class: "plain close", "aria-label": "Close the details", onclick: () => app.go({node: null})},
          "×",
        ),
      ),
      this.time(op),
      this.facts(op, view),
      this.why(op),
      this.before(op, pass),
      this.body(op),
      this.kernels(op),
    );
  },

  facts(op, view) {
    const rows = [];
    const add = (name, ...value) => rows.push(el("dt", {}, name), el("dd", {}, value));
    op.results.forEach((r, k) => {
      add(op.results.length > 1 ? `result ${k}` : "type", el("code", {}, r.type));
      add("layout", layoutWords(r.type));
    });
    if (op.locs.length)
      add(
        "source",
        op.locs.map((l, k) => [k > 0 && ", ", el("code", {}, l)]),
      );
    if (op.module) add("module", el("code", {}, op.module));
    op.operands.forEach((v, k) => {
      if (v !== null) add(k ? "" : "operands", this.link(v, view));
    });
    const readers = new Set(op.results.flatMap((r) => view.readers.get(r.name) || []));
    [...readers].slice(0, 12).forEach((u, k) => add(k ? "" : "used by", this.jump(u)));
    if (readers.size > 12) add("", `and ${readers.size - 12} more`);
    if (op.results.some((r) => view.outputs.includes(r.name))) add(readers.size ? "" : "used by", "an output of the model");
    const attrs = op.attrs.filter(([k]) => !(op.name === "fused" && k === "kind"));
    if (attrs.length)
      add(
        "attributes",
        attrs.map(([k, v]) => el("div", {}, el("code", {}, `${k} = ${v}`))),
      );
    for (const k of (view.last && model.stepsOf.get(op.number)) || []) {
      const block = model.data.memory.blocks.find((b) => b[5] === op.number && b[0] === k);
      if (block)
        add("memory", `${bytes(block[3])} at ${bytes(block[2])} of the arena, from step ${block[0]} to step ${block[1]}`);
    }
    return el("dl", {}, rows);
  },

  link(name, view) {
    const constant = view.constants.get(name);
    if (constant)
      return [
        el("span", {class: "muted"}, "constant "),
        el("code", {}, "%" + name),
        " ",
        el("span", {class: "muted"}, niceType(constant.results[0].type)),
      ];
    const maker = view.makers.get(name);
    if (maker) return this.jump(maker, name);
    const input = view.inputs.find((v) => v.name === name);
    return [
      el("span", {class: "muted"}, "input "),
      el("code", {}, "%" + name),
      input && el("span", {class: "muted"}, " " + niceType(input.type)),
    ];
  },

  jump(op, name) {
    const value = op.results.find((r) => r.name === name) || op.results[0];
    return el(
      "a",
      {
        href: app.link({node: op.number}),
        onclick: (e) => {
          e.preventDefault();
          app.go({node: op.number});
        },
      },
      el("code", {}, "%" + (value ? value.name : "?")),
      el("span", {class: "muted"}, ` ${model.label(op)} ${value ? niceType(value.type) : ""}`),
    );
  },

  time(op) {
    if (!model.view(app.pass().snapshot).last) return null;
    const steps = model.stepsOf.get(op.number);
    if (!steps)
      return el("p", {class: "muted small"}, "No code of its own: its result is a view of memory that is there already.");
    const host = model.data.steps[steps[0]].why;
    const cost = model.cost(op.number);
    const parts = [host && el("p", {class: "warn small"}, `Runs on the reference evaluator, not in a kernel: ${host}.`)];
    if (cost) {
      const moved = cost.weights + cost.activations;
      const cell = (name, value) => el("div", {}, el("b", {}, value), el("span", {class: "muted"}, name));
      parts.push(
        el(
          "div",
          {class: "cells"},
          cell("measured", seconds(cost.seconds)),
          cell("of the call", percent(cost.seconds / model.total)),
          cost.floor !== null && cell("floor", seconds(cost.floor)),
          cost.floor !== null && cost.seconds > 0 && cell("of roofline", percent(cost.floor / cost.seconds)),
          cost.operations > 0 && cell("GFLOP/s", digits(cost.operations / cost.seconds / 1e9)),
          cell("GB/s", digits(moved / cost.seconds / 1e9)),
          cost.bound && cell("bound", cost.bound),
        ),
        el(
          "p",
          {class: "muted small"},
          `${cost.what}; ${count(cost.operations)} operations on ${bytes(moved)}` +
            (cost.weights ? `, ${bytes(cost.weights)} of them constants` : ""),
        ),
      );
    }
    return el("section", {}, parts);
  },

  why(op) {
    const reasons = model.reasons(op);
    if (!reasons.length) return null;
    return el(
      "section",
      {},
      el("h3", {}, "Why"),
      el(
        "ul",
        {class: "reasons"},
        reasons.map(([pass, , , , text]) => {
          const known =
            model.passes.findLast((p) => p.name === pass && p.changed) || model.passes.findLast((p) => p.name === pass);
          return el(
            "li",
            {},
            known
              ? el(
                  "a",
                  {
                    class: "tag",
                    href: app.link({pass: model.passes.indexOf(known)}),
                    onclick: (e) => {
                      e.preventDefault();
                      app.go({pass: model.passes.indexOf(known), tab: "graph"});
                    },
                  },
                  pass,
                )
              : tag(pass),
            " ",
            text,
          );
        }),
      ),
    );
  },

  before(op, pass) {
    const earlier = model.changes(pass).before.get(op.number);
    if (!earlier) return null;
    return el(
      "section",
      {},
      el("h3", {}, `What ${pass.title} changed`),
      el(
        "pre",
        {class: "code diff wrap"},
        el("span", {class: "line d-minus"}, "- " + model.text(earlier) + "\n"),
        el("span", {class: "line d-plus"}, "+ " + model.text(op) + "\n"),
      ),
    );
  },

  body(op) {
    if (!op.regions.length) return null;
    return el(
      "section",
      {},
      op.regions.map((region) => {
        const inner = model.read(region);
        return [
          el("h3", {}, op.name === "fused" ? "Computed in it" : `@${inner.name}`),
          el(
            "pre",
            {class: "code wrap"},
            inner.ops.map((o) => {
              const [before, name, behind] = model.pieces(o);
              return el(
                "span",
                {class: "line"},
                before,
                el("b", {class: "k-" + model.kindOf(o)}, name),
                behind,
                o.locs.length > 0 && el("b", {class: "c-note"}, "  # " + o.locs.join(", ")),
                "\n",
              );
            }),
          ),
        ];
      }),
    );
  },

  kernels(op) {
    if (!model.view(app.pass().snapshot).last) {
      const end = model.stepsOf.has(op.number);
      return end
        ? el(
            "p",
            {class: "small"},
            el(
              "a",
              {
                href: app.link({pass: model.last}),
                onclick: (e) => {
                  e.preventDefault();
                  app.go({pass: model.last});
                },
              },
              "See it in the finished program, with its code",
            ),
          )
        : null;
    }
    const numbers = [
      ...new Set(
        (model.stepsOf.get(op.number) || []).flatMap((k) => {
          const s = model.data.steps[k];
          return s.kernel !== undefined ? [s.kernel] : s.kernels || [];
        }),
      ),
    ];
    return numbers.map((number) => {
      const kernel = model.data.kernels[number],
        users = model.data.steps.filter((s) => s.kernel === number || (s.kernels || []).includes(number)).length;
      const box = el("div", {class: "kernel"}, el("p", {class: "muted small"}, "…"));
      code
        .show(box, number)
        .catch((e) => box.replaceChildren(el("p", {class: "warn"}, `The code cannot be shown: ${e.message}`)));
      return el(
        "section",
        {},
        el(
          "h3",
          {},
          "Kernel ",
          el("code", {}, kernel.name),
          users > 1 && el("span", {class: "muted small"}, `  called ${users} times`),
        ),
        box,
      );
    });
  },
};

function tag(text, kind) {
  return el("span", {class: "tag " + (kind || "")}, text);
}
