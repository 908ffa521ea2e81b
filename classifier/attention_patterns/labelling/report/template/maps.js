// Attention maps: grey pictures are read back as shades and painted in one hue, light or dark as the page is.

const dark = matchMedia("screen and (prefers-color-scheme: dark)");
const LIGHT_HUE = [[255, 255, 255], [214, 230, 243], [120, 179, 215], [33, 113, 181], [8, 40, 92]];
const DARK_HUE = [[22, 25, 29], [20, 52, 84], [31, 103, 160], [104, 178, 229], [236, 247, 255]];

function hue(part) {
  const stops = dark.matches ? DARK_HUE : LIGHT_HUE;
  const at = Math.min(Math.max(part, 0), 1) * (stops.length - 1), low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((value, n) => Math.round(value + (at - low) * (stops[low + 1][n] - value)));
}

/** The shades of all heads of a layer, a promise of bytes: cells x cells for each head. */
function shadesOf(example, row) {
  example.shades ??= [];
  example.shades[row] ??= new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const canvas = make("canvas", { width: image.width, height: image.height });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(image, 0, 0);
      const pixels = context.getImageData(0, 0, image.width, image.height).data;
      resolve(Uint8Array.from({ length: pixels.length / 4 }, (_, n) => pixels[4 * n]));
    };
    image.onerror = () => reject(new Error("a picture of maps cannot be read"));
    image.src = "data:image/png;base64," + example.maps[row];
  });
  return example.shades[row];
}

async function shadesOfHead(example, stack, n) {
  const all = await shadesOf(example, Math.floor(n / stack.columns)), size = example.cells ** 2;
  const head = n % stack.columns;
  return all.subarray(head * size, (head + 1) * size);
}

function paint(canvas, shades, cells) {
  canvas.width = canvas.height = cells;
  const context = canvas.getContext("2d"), image = context.createImageData(cells, cells);
  const table = Array.from({ length: 256 }, (_, shade) => hue(shade / 255));
  shades.forEach((shade, n) => image.data.set([...table[shade], 255], 4 * n));
  context.putImageData(image, 0, 0);
}

/** Attention from its shade, which is m / (m + v) with v = 2.5 / L. */
const attentionOf = (shade, length) => Math.min(1, ((2.5 / length) * shade) / (255 - Math.min(shade, 254)));
const formatAttention = (attention) => (attention === 0 ? "0" : attention < 0.0095 ? "< 0.01" : attention.toFixed(2));

function positionsOf(example, cell) {
  const first = Math.floor((cell * example.length) / example.cells);
  const last = Math.floor(((cell + 1) * example.length) / example.cells) - 1;
  return last > first ? `${first}–${last}` : `${first}`;
}

const tokenAt = (example, cell) => (example.tokens ? example.tokens[cell] : null);

/** Which cells get a label beside the map: all where they fit, else special tokens and some positions. */
function labelsOf(example, stack) {
  if (example.tokens && example.cells <= 40 && example.cells === example.length) return example.tokens.map((token, cell) => [cell, token]);
  const special = new Set(stack.groups.map((group) => group.name)), found = new Map();
  const step = Math.max(1, Math.round(example.cells / 6));
  for (let cell = 0; cell < example.cells; cell += step) found.set(cell, positionsOf(example, cell).split("–")[0]);
  for (let cell = 0; cell < example.cells && example.tokens; cell++) {
    const token = example.tokens[cell].split(" … ").find((one) => special.has(one));
    if (!token) continue;
    for (const near of [cell - 2, cell - 1, cell + 1, cell + 2]) if (!special.has(found.get(near))) found.delete(near);
    if (!found.has(cell - 1)) found.set(cell, token);
  }
  return [...found];
}

/** A large map with labels; point at it or move over it with the arrow keys to read it. */
async function largeMap(example, stack, n, onPoint) {
  const shades = await shadesOfHead(example, stack, n), cells = example.cells;
  const labels = labelsOf(example, stack), longest = Math.max(2, ...labels.map(([, text]) => [...text].length));
  const margin = Math.min(92, 10 + 5.4 * Math.min(longest, 15)), side = 400 - margin, unit = side / cells;
  const size = Math.min(11, Math.max(labels.length === cells ? 0.96 * unit : 10, 5));
  const canvas = make("canvas");
  paint(canvas, shades, cells);
  const picture = draw("svg", {
    viewBox: `0 0 ${400 + 1} ${400 + 1}`, tabindex: 0, role: "group",
    "aria-label": "Attention map: queries are rows, keys are columns; the arrow keys move over it",
  });
  picture.append(draw("image", { href: canvas.toDataURL(), x: margin, y: margin, width: side, height: side, preserveAspectRatio: "none" }));
  picture.append(draw("rect", { class: "frame", x: margin, y: margin, width: side, height: side }));
  const texts = { row: new Map(), column: new Map() };
  for (const [cell, text] of labels) {
    const short = [...text].length > 15 ? [...text].slice(0, 14).join("") + "…" : text;
    const middle = margin + (cell + 0.5) * unit;
    const row = draw("text", { x: margin - 4, y: middle, "text-anchor": "end", "dominant-baseline": "central", "font-size": size }, short);
    const column = draw("text", { transform: `translate(${middle} ${margin - 4}) rotate(-90)`, "dominant-baseline": "central", "font-size": size }, short);
    texts.row.set(cell, row);
    texts.column.set(cell, column);
    picture.append(row, column);
  }
  const cross = draw("rect", { class: "cross", "stroke-width": 1.4, visibility: "hidden" });
  picture.append(cross);
  let at = null;
  const point = (row, column) => {
    for (const [axis, cell] of [["row", at?.[0]], ["column", at?.[1]]]) texts[axis].get(cell)?.classList.remove("on");
    at = [Math.min(Math.max(row, 0), cells - 1), Math.min(Math.max(column, 0), cells - 1)];
    texts.row.get(at[0])?.classList.add("on");
    texts.column.get(at[1])?.classList.add("on");
    const place = { x: margin + at[1] * unit, y: margin + at[0] * unit, width: unit, height: unit, visibility: "visible" };
    for (const [name, value] of Object.entries(place)) cross.setAttribute(name, value);
    onPoint(at[0], at[1], attentionOf(shades[at[0] * cells + at[1]], example.length));
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect(), scale = 401 / box.width;
    const column = Math.floor(((event.clientX - box.left) * scale - margin) / unit);
    const row = Math.floor(((event.clientY - box.top) * scale - margin) / unit);
    if (row >= 0 && column >= 0 && row < cells && column < cells) point(row, column);
  });
  picture.addEventListener("keydown", (event) => {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    if (!down && !right) return;
    event.preventDefault();
    point((at?.[0] ?? -down) + down, (at?.[1] ?? -right) + right);
  });
  return picture;
}
