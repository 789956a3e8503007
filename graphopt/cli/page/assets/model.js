// What the page knows: snapshots of the graph, ops, steps of the program, reasons. All that reads the data's own form is here.

const model = {
  /** Take the unpacked data. */
  open(data) {
    this.data = data;
    this.views = new Map();
    this.stepsOf = new Map();
    data.steps.forEach((s, k) => {
      if (!this.stepsOf.has(s.op)) this.stepsOf.set(s.op, []);
      this.stepsOf.get(s.op).push(k);
    });
    this.total = data.profile ? data.profile.rows.reduce((sum, r) => sum + r.seconds, 0) : 0;
    this.slowest = data.profile ? Math.max(...data.profile.rows.map((r) => r.seconds), 0) : 0;
    this.reasonsByName = new Map();
    this.reasonsByLoc = new Map();
    for (const r of data.reasons) {
      for (const n of r[2]) push(this.reasonsByName, n, r);
      for (const l of r[3]) push(this.reasonsByLoc, l, r);
    }
    // Pass 0 is the graph as it came in.
    this.passes = [{name: "as captured", run: 1, snapshot: 0, captured: true}, ...data.passes];
    for (const p of this.passes) {
      p.title = p.name + (this.passes.filter((q) => q.name === p.name).length > 1 ? ` (run ${p.run})` : "");
      p.id = p.captured ? "capture" : `${p.name}:${p.run}`;
      p.changed = Boolean(p.added);
    }
    this.last = this.passes.length - 1;
  },

  op(record) {
    const [number, name, operands, results, attrs, locs, module, regions] = this.data.records[record];
    return {
      record,
      number,
      name,
      operands,
      attrs,
      regions,
      results: results.map(([n, t]) => ({name: n, type: this.data.types[t]})),
      locs: locs.map((l) => this.data.locs[l]),
      module: this.data.modules[module],
    };
  },

  /** A snapshot with its ops, who makes which value and who reads it; nested graphs too. */
  read(graph) {
    const view = {name: graph.name, ops: [], byNumber: new Map(), makers: new Map(), readers: new Map(), constants: new Map()};
    view.inputs = graph.inputs.map(([n, t]) => ({name: n, type: this.data.types[t]}));
    view.outputs = graph.outputs;
    for (const r of graph.ops) {
      const op = this.op(r);
      view.byNumber.set(op.number, op);
      for (const v of op.results) view.makers.set(v.name, op);
      if (op.name === "const") view.constants.set(op.results[0].name, op);
      else view.ops.push(op);
      for (const v of op.operands) if (v !== null) push(view.readers, v, op);
    }
    return view;
  },

  view(snapshot) {
    if (!this.views.has(snapshot)) {
      const view = this.read(this.data.snapshots[snapshot]);
      view.last = snapshot === this.data.snapshots.length - 1;
      this.views.set(snapshot, view);
    }
    return this.views.get(snapshot);
  },

  /** What a pass did, without constants: Map from op to "added" or "altered", and the ops removed. */
  changes(pass) {
    if (!pass.marks) {
      const marks = new Map(),
        before = new Map(),
        removed = [];
      const view = this.view(pass.snapshot);
      for (const n of pass.added || []) if (view.byNumber.get(n).name !== "const") marks.set(n, "added");
      for (const [n, r] of pass.altered || []) {
        if (view.byNumber.get(n).name === "const") continue;
        marks.set(n, "altered");
        before.set(n, this.op(r));
      }
      const old = pass.changed ? this.view(pass.snapshot - 1) : null;
      const gone = new Set(pass.removed || []);
      if (old) for (const op of old.ops) if (gone.has(op.number)) removed.push(op);
      pass.marks = {
        marks,
        before,
        removed,
        added: [...marks.values()].filter((m) => m === "added").length,
        altered: [...marks.values()].filter((m) => m === "altered").length,
      };
    }
    return pass.marks;
  },

  kindOf(op) {
    if (op.name !== "fused") return this.data.kinds[op.name] || "other";
    const inner = this.body(op).map((o) => this.data.kinds[o.name]);
    return (
      ["contraction", "control", "composite", "reduction", "elementwise", "movement"].find((k) => inner.includes(k)) || "other"
    );
  },

  body(op) {
    if (!op.inner) op.inner = op.name === "fused" ? this.read(op.regions[0]).ops : [];
    return op.inner;
  },

  /** conv · add · relu for a fused op. */
  label(op) {
    if (op.name !== "fused") return op.name;
    let names = this.body(op).map((o) => o.name);
    const computing = names.filter((n) => this.data.kinds[n] !== "movement");
    if (computing.length) names = computing;
    const shown = [];
    for (const n of names) {
      const same = shown.length && shown[shown.length - 1].name === n ? shown[shown.length - 1] : null;
      if (same) same.times++;
      else shown.push({name: n, times: 1});
    }
    const text = shown.map((s) => (s.times > 1 ? `${s.times} ${s.name}` : s.name));
    return text.length > 5 ? [...text.slice(0, 2), `${text.length - 4} more`, ...text.slice(-2)].join(" · ") : text.join(" · ");
  },

  /** The measured rows of an op's steps, added up; null where nothing was measured or it has no step. */
  cost(number) {
    const steps = this.stepsOf.get(number);
    if (!steps || !this.data.profile) return null;
    const rows = steps.map((k) => this.data.profile.rows[k]);
    const sum = (f) => rows.reduce((total, r) => total + f(r), 0);
    return {
      ...rows[0],
      steps,
      seconds: sum((r) => r.seconds),
      operations: sum((r) => r.operations),
      floor: rows.every((r) => r.floor !== null) ? sum((r) => r.floor) : null,
    };
  },

  share(number) {
    const c = this.cost(number);
    return c && this.total ? c.seconds / this.total : 0;
  },

  reasons(op) {
    const found = new Set();
    for (const v of op.results) for (const r of this.reasonsByName.get(v.name) || []) found.add(r);
    for (const l of op.locs) for (const r of this.reasonsByLoc.get(l) || []) found.add(r);
    return this.data.reasons.filter((r) => found.has(r));
  },

  /** An op as the text form has it: what stands before its name, the name, and what stands behind. */
  pieces(op) {
    const value = (v) => (v === null ? "_" : "%" + v);
    const attrs = op.attrs.length && op.name !== "const" ? ` {${op.attrs.map(([k, v]) => `${k}=${v}`).join(", ")}}` : "";
    const given = op.name === "const" ? ` ${op.attrs.map(([, v]) => v).join("")}` : `(${op.operands.map(value).join(", ")})`;
    return [
      `${op.results.map((r) => value(r.name)).join(", ")} = `,
      op.name,
      `${given}${attrs} : ${op.results.map((r) => r.type).join(", ")}`,
    ];
  },

  text(op) {
    return this.pieces(op).join("");
  },

  /** All that a search may find of an op, in small letters. */
  haystack(op) {
    if (!op.hay) {
      const parts = [op.name, op.module, ...op.locs];
      for (const v of op.results) parts.push("%" + v.name, v.type);
      for (const v of op.operands) if (v) parts.push(v);
      for (const o of this.body(op)) parts.push(o.name, ...o.results.map((r) => "%" + r.name));
      op.hay = parts.join("\n").toLowerCase();
    }
    return op.hay;
  },
};

function push(map, key, item) {
  if (map.has(key)) map.get(key).push(item);
  else map.set(key, [item]);
}
