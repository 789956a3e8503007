// Where edges run: every node gets a lane, which it keeps from its row to that of its last reader, as in a map of railways.

/**
 * `nodes`: {row, reads: [indices of earlier nodes]} in order. Gives each its `lane`, and the edges: from node to node, the rows
 * that they span, and whether an edge goes straight on in its lane. An op continues the lane of an operand that it reads last.
 */
function assignLanes(nodes) {
  const lastReader = nodes.map(() => -1);
  nodes.forEach((n, i) => {
    for (const s of n.reads) lastReader[s] = i;
  });
  const holders = []; // by lane: the node that holds it
  let width = 0;
  nodes.forEach((n, i) => {
    const ending = n.reads.filter((s) => lastReader[s] === i).map((s) => nodes[s].lane);
    let lane = ending.length ? Math.min(...ending) : -1;
    if (lane < 0) {
      lane = 0;
      while (holders[lane] !== undefined) lane++;
    }
    for (const l of ending) holders[l] = undefined;
    n.lane = lane;
    holders[lane] = lastReader[i] > i ? i : undefined;
    width = Math.max(width, lane + 1);
  });
  const edges = [];
  nodes.forEach((n, i) => {
    for (const s of new Set(n.reads))
      edges.push({from: s, to: i, first: nodes[s].row, last: n.row, straight: nodes[s].lane === n.lane});
  });
  return {width, edges};
}

/** The line of an edge, in a column of lanes `step` apart and rows `height` high. */
function edgePath(from, to, step, height, left) {
  const x = (n) => left + n.lane * step,
    y = (n) => n.row * height + height / 2;
  const [x1, y1, x2, y2] = [x(from), y(from), x(to), y(to)];
  if (x1 === x2) return `M${x1} ${y1}V${y2}`;
  const bend = Math.min(height, y2 - y1);
  return `M${x1} ${y1}V${y2 - bend}C${x1} ${y2 - bend / 2} ${x2} ${y2 - bend / 2} ${x2} ${y2}`;
}
