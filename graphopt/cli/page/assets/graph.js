// The graph of one pass: a list of ops in the order of execution, grouped by source module, with edges in lanes beside it.

const graphView = {
  open: new Map(), // by path of a group whether the user opened or closed it
  mode: "kind",
  showRemoved: true,

  /** Ops and groups as a tree. A group is a run of ops of one module; one with a single member is that member. */
  tree(pass) {
    const view = model.view(pass.snapshot),
      marks = model.changes(pass);
    const root = {path: [], items: [], key: ""};
    const stack = [root];
    const seen = new Map();
    const place = (item, module) => {
      const path = module ? module.split(".") : [];
      while (stack.length > 1 && !stack[stack.length - 1].path.every((p, i) => p === path[i])) stack.pop();
      for (let d = stack.length - 1; d < path.length; d++) {
        const name = path.slice(0, d + 1).join(".");
        const times = (seen.get(name) || 0) + 1;
        seen.set(name, times);
        const group = {path: path.slice(0, d + 1), items: [], key: times > 1 ? `${name}#${times}` : name};
        stack[stack.length - 1].items.push(group);
        stack.push(group);
      }
      stack[stack.length - 1].items.push(item);
    };
    const ghosts = this.showRemoved ? ghostsBehind(pass, view, marks.removed) : new Map();
    for (const g of ghosts.get(null) || []) place({op: g, ghost: true}, g.module);
    for (const op of view.ops) {
      place({op, mark: marks.marks.get(op.number)}, op.module);
      for (const g of ghosts.get(op.number) || []) place({op: g, ghost: true}, g.module);
    }
    return simplified(root);
  },

  /** How deep groups are open where the user said nothing: as deep as some 200 rows allow. */
  defaultDepth(root) {
    const depths = [];
    const walk = (group, depth) => {
      for (const item of group.items) {
        depths[depth] = (depths[depth] || 0) + 1;
        if (item.items) walk(item, depth + 1);
      }
    };
    walk(root, 0);
    let rows = depths[0] || 0,
      depth = 0;
    while (depth + 1 < depths.length && rows + depths[depth + 1] <= 220) rows += depths[++depth];
    return Math.max(depth, 1);
  },

  /** The rows that are to be seen, in order, and the nodes among them. */
  lay(pass) {
    const view = model.view(pass.snapshot);
    this.timed = Boolean(model.data.profile) && view.last;
    const root = this.tree(pass);
    const depthOpen = this.defaultDepth(root);
    const rows = [],
      nodeOf = new Map(),
      nodes = [];
    const node = (row, ops) => {
      const n = {row, reads: [], ops};
      for (const op of ops) nodeOf.set(op.number, nodes.length);
      nodes.push(n);
      return n;
    };
    const makers = new Map(); // of values that are inputs: the node
    view.inputs.forEach((v) => {
      makers.set(v.name, nodes.length);
      rows.push({kind: "input", value: v, depth: 0, node: node(rows.length, [])});
    });
    const walk = (group, depth) => {
      for (const item of group.items) {
        if (!item.items) {
          const row = {kind: item.ghost ? "ghost" : "op", op: item.op, mark: item.mark, depth, within: group.path.join(".")};
          if (!item.ghost) row.node = node(rows.length, [item.op]);
          rows.push(row);
          continue;
        }
        const row = {kind: "group", group: item, depth, within: group.path.join("."), ...summary(item)};
        const isOpen = this.open.has(item.key) ? this.open.get(item.key) : depth < depthOpen || row.changes > 0;
        row.open = isOpen;
        if (!isOpen && row.ops.length) row.node = node(rows.length, row.ops);
        rows.push(row);
        if (isOpen) walk(item, depth + 1);
      }
    };
    walk(root, 0);
    view.outputs.forEach((name) => rows.push({kind: "output", name, depth: 0, node: node(rows.length, [])}));
    const source = (v) => {
      const maker = view.makers.get(v);
      return maker ? nodeOf.get(maker.number) : makers.get(v);
    };
    for (const row of rows) {
      if (!row.node) continue;
      const index = nodes.indexOf(row.node);
      const read = row.kind === "output" ? [row.name] : row.node.ops.flatMap((op) => op.operands);
      for (const v of read) {
        const s = v === null ? undefined : source(v);
        if (s !== undefined && s < index && !row.node.reads.includes(s)) row.node.reads.push(s);
      }
    }
    return {rows, nodes, nodeOf, ...assignLanes(nodes)};
  },

  // Drawing
  render(host) {
    this.host = host;
    const pass = app.pass();
    this.layout = this.lay(pass);
    if ((this.mode === "time" && !this.timed) || (this.mode === "change" && !pass.changed)) this.mode = "kind";
    this.narrow = matchMedia("(max-width: 700px)").matches;
    this.height = this.narrow ? 44 : 28;
    const room = this.narrow ? 84 : 168;
    this.step = Math.min(this.narrow ? 11 : 14, room / Math.max(this.layout.width, 1));
    this.left = 12;
    this.gutter = Math.ceil(this.left + (this.layout.width - 1) * this.step + 14);
    this.rowsBox = el("div", {
      class: "rows",
      role: "tree",
      "aria-label": "Ops in order of execution",
      tabindex: "0",
      onkeydown: (e) => this.keys(e),
    });
    this.rowsBox.style.height = this.layout.rows.length * this.height + "px";
    this.edges = svg("svg", {class: "edges", "aria-hidden": "true", width: this.gutter});
    this.list = el("div", {class: "list"});
    this.rowsBox.append(this.edges, this.list);
    const top = this.shown === pass.id && this.scroller ? this.scroller.scrollTop : 0;
    this.scroller = el("div", {class: "scroller", onscroll: () => this.soon()}, this.rowsBox);
    put(
      host,
      this.toolbar(pass),
      this.scroller,
      !this.narrow && legend(model.view(pass.snapshot).ops.map((op) => model.kindOf(op))),
    );
    const first = app.state.pass === model.last ? 0 : this.layout.rows.findIndex((r) => r.mark || r.kind === "ghost");
    this.scroller.scrollTop = this.shown === pass.id ? top : Math.max(0, (first - 4) * this.height);
    this.shown = pass.id;
    this.draw();
  },

  toolbar(pass) {
    const c = model.changes(pass);
    const button = (label, pressed, onclick) => el("button", {type: "button", "aria-pressed": String(pressed), onclick}, label);
    const modes = el(
      "span",
      {class: "segmented", role: "group", "aria-label": "Colour by"},
      ["kind", "time", "change"]
        .filter((m) => (m === "time" ? this.timed : m === "change" ? pass.changed : true))
        .map((m) =>
          button(m, this.mode === m, () => {
            this.mode = m;
            app.render();
          }),
        ),
    );
    const folds = el(
      "span",
      {class: "segmented", role: "group", "aria-label": "Groups"},
      button("open all", false, () => this.fold(true)),
      button("close all", false, () => this.fold(false)),
    );
    const texts =
      pass.changed &&
      el(
        "span",
        {class: "segmented", role: "group", "aria-label": "Show"},
        button("graph", !app.state.diff, () => app.go({diff: false})),
        button("text diff", app.state.diff, () => app.go({diff: true})),
      );
    return el(
      "div",
      {class: "toolbar"},
      el(
        "strong",
        {class: "nowrap"},
        pass.captured ? "As captured" : app.state.pass === model.last ? "Finished" : `After ${pass.title}`,
      ),
      badges(c.added, c.removed.length, c.altered),
      el("span", {class: "spacer"}),
      texts,
      !app.state.diff && [el("span", {class: "wide muted"}, "colour"), modes, folds],
    );
  },

  fold(isOpen) {
    const walk = (group) =>
      group.items.forEach((i) => {
        if (i.items) {
          this.open.set(i.key, isOpen);
          walk(i);
        }
      });
    walk(this.tree(app.pass()));
    app.render();
  },

  soon() {
    if (!this.pending)
      this.pending = requestAnimationFrame(() => {
        this.pending = 0;
        this.draw();
      });
  },

  /** Only the rows in sight, and some around them. */
  draw() {
    const {rows, nodes, edges} = this.layout,
      h = this.height;
    const top = this.scroller.scrollTop,
      seen = this.scroller.clientHeight || 800;
    const first = Math.max(0, Math.floor(top / h) - 8),
      last = Math.min(rows.length - 1, Math.ceil((top + seen) / h) + 8);
    const selected = this.layout.nodeOf.get(app.state.node);
    this.edges.setAttribute("height", rows.length * h);
    const lines = [],
      marked = [];
    for (const e of edges) {
      if (e.last < first || e.first > last) continue;
      const on = selected !== undefined && (e.from === selected || e.to === selected);
      (on ? marked : lines).push(
        svg("path", {d: edgePath(nodes[e.from], nodes[e.to], this.step, h, this.left), class: on ? "edge on" : "edge"}),
      );
    }
    const dots = [];
    for (let k = first; k <= last; k++) {
      const n = rows[k].node;
      if (!n) continue;
      const x = this.left + n.lane * this.step,
        y = k * h + h / 2;
      const shape =
        rows[k].kind === "group"
          ? svg("rect", {x: x - 6, y: y - 6, width: 12, height: 12, rx: 3})
          : rows[k].kind === "op"
            ? svg("circle", {cx: x, cy: y, r: 5})
            : svg("circle", {cx: x, cy: y, r: 3.5});
      shape.setAttribute("class", "dot " + this.colour(rows[k]));
      if (this.mode === "time") shape.style.setProperty("--heat", this.heat(rows[k]));
      dots.push(shape);
    }
    this.edges.replaceChildren(...lines, ...marked, ...dots);
    this.list.replaceChildren(...rows.slice(first, last + 1).map((row, k) => this.row(row, first + k)));
  },

  colour(row) {
    if (row.kind === "input" || row.kind === "output") return "end";
    if (this.mode === "time") return "heat";
    if (this.mode === "change") return row.mark || (row.kind === "group" && row.changes ? "altered" : "same");
    return row.kind === "group" ? "k-group" : "k-" + model.kindOf(row.op);
  },

  heat(row) {
    const share = row.kind === "group" ? row.share : row.op ? model.share(row.op.number) : 0;
    const most = model.total ? model.slowest / model.total : 1;
    return Math.round(100 * Math.sqrt(Math.min(1, share / most))) + "%";
  },

  row(row, index) {
    const classes = ["row", row.kind];
    const attributes = {
      role: "treeitem",
      id: `row-${index}`,
      "aria-level": row.depth + 1,
      style: {
        top: index * this.height + "px",
        height: this.height + "px",
        "padding-left": this.gutter + row.depth * (this.narrow ? 8 : 14) + "px",
      },
    };
    if (row.mark) classes.push(row.mark);
    if (row.kind === "op" || row.kind === "ghost") {
      if (row.op.number === app.state.node && row.kind === "op") {
        classes.push("selected");
        attributes["aria-selected"] = "true";
      }
      if (search.hits.has(row.op.number)) classes.push("hit");
      attributes.onclick = () => app.go({node: row.op.number, pass: row.kind === "ghost" ? app.state.pass - 1 : app.state.pass});
      attributes["data-op"] = row.op.number;
    } else if (row.kind === "group") {
      attributes["aria-expanded"] = String(row.open);
      attributes.onclick = () => this.toggle(row);
      if (!row.open && row.ops.some((op) => search.hits.has(op.number))) classes.push("hit");
    }
    attributes.class = classes.join(" ");
    return el("div", attributes, this.cells(row));
  },

  cells(row) {
    if (row.kind === "input" || row.kind === "output") {
      const type = row.value ? row.value.type : "";
      return [
        el("span", {class: "name"}, row.kind === "input" ? "input" : "output"),
        el("span", {class: "value"}, "%" + (row.value ? row.value.name : row.name)),
        el("span", {class: "type"}, niceType(type)),
      ];
    }
    if (row.kind === "group") {
      return [
        el("span", {class: "fold", "aria-hidden": "true"}, row.open ? "▾" : "▸"),
        el("span", {class: "module"}, this.title(row)),
        el("span", {class: "value muted"}, plural(row.ops.length, "op")),
        badges(row.added, row.removed, row.altered),
        el("span", {class: "spacer"}),
        el("span", {class: "type"}, row.share ? percent(row.share) : ""),
        timeBar(row.seconds, row.share, null, model.total),
      ];
    }
    const {op} = row,
      cost = row.kind === "op" && this.timed ? model.cost(op.number) : null;
    const sign = {added: "+", altered: "~"}[row.mark] || (row.kind === "ghost" ? "−" : "");
    return [
      sign && el("span", {class: "sign", title: row.kind === "ghost" ? "removed by this pass" : row.mark}, sign),
      el("span", {class: "name k-" + model.kindOf(op)}, model.label(op)),
      el("span", {class: "value"}, op.results.length ? "%" + op.results[0].name : ""),
      el("span", {class: "source muted"}, this.source(op, row.within)),
      el("span", {class: "spacer"}),
      el("span", {class: "type"}, op.results.length ? niceType(op.results[0].type) : ""),
      timeBar(cost && cost.seconds, cost ? cost.seconds / model.total : 0, cost && cost.floor),
    ];
  },

  title(row) {
    const own = row.group.path.join(".");
    const rest = row.within && own.startsWith(row.within + ".") ? own.slice(row.within.length + 1) : own;
    return /^\d/.test(rest) && row.within ? row.within.split(".").pop() + "." + rest : rest;
  },

  /** The module of an op within the group that it stands in. */
  source(op, within) {
    if (op.module === within) return "";
    return within && op.module.startsWith(within + ".") ? op.module.slice(within.length + 1) : op.module;
  },

  toggle(row) {
    this.open.set(row.group.key, !row.open);
    app.render();
  },

  /** Scroll to an op, opening the groups around it. */
  reveal(number) {
    const find = (group, trail) => {
      for (const item of group.items) {
        if (item.items) {
          const found = find(item, [...trail, item.key]);
          if (found) return found;
        } else if (item.op.number === number && !item.ghost) return trail;
      }
      return null;
    };
    let at = this.layout.rows.findIndex((r) => r.kind === "op" && r.op.number === number);
    if (at < 0) {
      for (const key of find(this.tree(app.pass()), []) || []) this.open.set(key, true);
      this.render(this.host);
      at = this.layout.rows.findIndex((r) => r.kind === "op" && r.op.number === number);
    }
    if (at < 0) return;
    const y = at * this.height,
      seen = this.scroller.clientHeight;
    if (y < this.scroller.scrollTop + this.height || y > this.scroller.scrollTop + seen - 2 * this.height) {
      this.scroller.scrollTop = Math.max(0, y - seen / 3);
    }
    this.rowsBox.setAttribute("aria-activedescendant", `row-${at}`);
    this.draw();
  },

  keys(event) {
    const rows = this.layout.rows;
    const at = rows.findIndex((r) => r.kind === "op" && r.op.number === app.state.node);
    const next = (from, by) => {
      for (let k = from + by; k >= 0 && k < rows.length; k += by) if (rows[k].kind === "op") return rows[k].op.number;
      return undefined;
    };
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      const number = next(at, event.key === "ArrowDown" ? 1 : -1);
      if (number !== undefined) app.go({node: number});
    } else if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && at >= 0) {
      event.preventDefault();
      for (let k = at; k >= 0; k--) {
        if (rows[k].kind === "group" && rows[k].depth < rows[at].depth) {
          this.toggle(rows[k]);
          break;
        }
      }
    }
  },
};

/** Which ops a pass removed, by the op that stood before them and is still there (null: none). */
function ghostsBehind(pass, view, removed) {
  const behind = new Map();
  if (!removed.length) return behind;
  const gone = new Set(removed.map((op) => op.number));
  const replaced = new Map();
  for (const [number, op] of model.changes(pass).before) replaced.set(op.number, number);
  let anchor = null;
  for (const op of model.view(pass.snapshot - 1).ops) {
    if (gone.has(op.number)) push(behind, anchor, op);
    else if (view.byNumber.has(op.number)) anchor = op.number;
    else if (replaced.has(op.number)) anchor = replaced.get(op.number);
  }
  return behind;
}

/** A group of one member is that member, and one whose only member is a group carries both names. */
function simplified(group) {
  group.items = group.items.map((item) => (item.items ? simplified(item) : item));
  return group.path.length && group.items.length === 1 ? group.items[0] : group;
}

/** The ops under a group, their time and how many of them a pass changed. */
function summary(group) {
  const ops = [];
  const c = {added: 0, removed: 0, altered: 0};
  const walk = (g) =>
    g.items.forEach((i) => {
      if (i.items) walk(i);
      else if (i.ghost) c.removed++;
      else {
        ops.push(i.op);
        if (i.mark) c[i.mark]++;
      }
    });
  walk(group);
  const time = graphView.timed ? ops.reduce((sum, op) => sum + ((model.cost(op.number) || {}).seconds || 0), 0) : 0;
  return {
    ops,
    ...c,
    changes: c.added + c.removed + c.altered,
    seconds: time || null,
    share: model.total ? time / model.total : 0,
  };
}

function badges(added, removed, altered) {
  if (!(added || removed || altered)) return null;
  return el(
    "span",
    {class: "badges"},
    added > 0 && el("b", {class: "added", title: "added"}, "+" + added),
    removed > 0 && el("b", {class: "removed", title: "removed"}, "−" + removed),
    altered > 0 && el("b", {class: "altered", title: "altered"}, "~" + altered),
  );
}

/** A time with a bar as long as its part of `whole`, which is the slowest kernel where not given; the dark part is the floor. */
function timeBar(time, share, floor, whole = model.slowest) {
  if (!graphView.timed) return null;
  if (!time) return el("span", {class: "time"});
  const full = Math.min(1, time / whole);
  return el(
    "span",
    {
      class: whole === model.slowest ? "time" : "time sums-up",
      title: `${seconds(time)}, ${percent(share)} of the call` + (floor ? `; could be ${seconds(floor)}` : ""),
    },
    el("span", {class: "number"}, seconds(time)),
    el(
      "span",
      {class: "bar"},
      el("i", {style: {width: 100 * full + "%"}}),
      floor && el("i", {class: "floor", style: {width: 100 * Math.min(full, floor / model.slowest) + "%"}}),
    ),
  );
}
