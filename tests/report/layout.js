"use strict";

// What is wrong with the layout of a page: a list of sentences, empty for a page without faults. Run by test_layout.py.

const TOLERANCE = 1.5; // pixels
const MEDIA = "svg, img, canvas, select, input, button";

function visible(node) {
  return node.checkVisibility({ visibilityProperty: true, opacityProperty: true });
}

function describe(item) {
  const text = item.text || `<${item.owner.tagName.toLowerCase()}>`;
  return `“${text.trim().slice(0, 40)}”`;
}

/** What can be seen of a box within the ancestors that cut off or scroll their content; null for nothing. */
function shown(box, innermost) {
  let { left, top, right, bottom } = box;
  for (let node = innermost; node && node !== document.documentElement; node = node.parentElement) {
    if (getComputedStyle(node).overflowX === "visible" || node === document.body) continue;
    const frame = node.getBoundingClientRect();
    left = Math.max(left, frame.left);
    top = Math.max(top, frame.top);
    right = Math.min(right, frame.right);
    bottom = Math.min(bottom, frame.bottom);
  }
  return right - left > 0.5 && bottom - top > 0.5 ? { left, top, right, bottom } : null;
}

/** Every line of text, and every picture or control, with its box. */
function findItems() {
  const items = [];
  const add = (box, owner, text) => {
    const cut = shown(box, text ? owner : owner.parentElement);
    if (cut && cut.right > 0) items.push({ ...cut, owner, text, whole: box });
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    const owner = node.parentElement;
    if (!node.data.trim() || owner.closest("script, style, option, title") || !visible(owner)) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const box of range.getClientRects()) add(box, owner, node.data);
  }
  for (const owner of document.querySelectorAll(MEDIA)) {
    if (visible(owner)) add(owner.getBoundingClientRect(), owner, "");
  }
  return items;
}

function overlaps(items) {
  const faults = [];
  items.forEach((first, index) => {
    for (const second of items.slice(index + 1)) {
      const across = Math.min(first.right, second.right) - Math.max(first.left, second.left);
      const down = Math.min(first.bottom, second.bottom) - Math.max(first.top, second.top);
      // The line boxes of two lines may touch: their letters do not.
      if (across <= TOLERANCE || down <= 3 * TOLERANCE) continue;
      if (first.owner.contains(second.owner) || second.owner.contains(first.owner)) continue;
      faults.push(`${describe(first)} and ${describe(second)} overlap`);
    }
  });
  return faults;
}

/** Text that leaves the block that it is in, and whatever leaves the page sideways. */
function outside(items) {
  const faults = [];
  const width = document.documentElement.clientWidth;
  for (const item of items) {
    if (item.right > width + TOLERANCE) faults.push(`${describe(item)} leaves the page`);
    const block = item.owner.closest("td, th, p, li, dd, dt, figcaption, section, header, footer, aside, figure, label");
    if (!block || !item.text) continue;
    const frame = block.getBoundingClientRect();
    if (getComputedStyle(item.owner).textOverflow === "ellipsis") continue;
    if (item.whole.right > frame.right + TOLERANCE || item.whole.left < frame.left - TOLERANCE) {
      faults.push(`${describe(item)} leaves its <${block.tagName.toLowerCase()}>`);
    }
  }
  if (document.documentElement.scrollWidth > width) faults.push("the page scrolls sideways");
  return faults;
}

/** Cells outside their table; and with `mayScroll` false, tables that do not fit into their section. */
function outsideTables(mayScroll) {
  const faults = [];
  for (const table of document.querySelectorAll("table")) {
    const frame = table.getBoundingClientRect();
    for (const cell of table.querySelectorAll("th, td")) {
      const box = cell.getBoundingClientRect();
      const fits = box.right <= frame.right + TOLERANCE && box.left >= frame.left - TOLERANCE;
      if (visible(cell) && !fits) faults.push(`“${cell.textContent.slice(0, 40)}” is outside its table`);
    }
    const box = table.parentElement.getBoundingClientRect();
    const scrolls = getComputedStyle(table.parentElement).overflowX === "auto";
    if (frame.right > box.right + TOLERANCE && !(mayScroll && scrolls)) faults.push(`#${table.id} does not fit`);
  }
  return faults;
}

// ---------------------------------------------------------------------------------------------------------- contrast

function channels(colour) {
  const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
  return { rgb: [red, green, blue], alpha };
}

/** The colour behind a node, with half-transparent ones mixed in. */
function ground(node) {
  const layers = [];
  for (; node; node = node.parentElement) {
    const layer = channels(getComputedStyle(node).backgroundColor);
    if (layer.alpha) layers.push(layer);
    if (layer.alpha === 1) break;
  }
  return layers.reduceRight(
    (below, { rgb, alpha }) => below.map((value, index) => alpha * rgb[index] + (1 - alpha) * value),
    [255, 255, 255],
  );
}

function luminance(rgb) {
  const [red, green, blue] = rgb.map((value) => {
    const part = value / 255;
    return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

/** Text with less contrast than WCAG 2 AA asks for. */
function pale(items) {
  const faults = new Set();
  for (const item of items) {
    if (!item.text) continue;
    const style = getComputedStyle(item.owner);
    const colour = channels(item.owner.closest("svg") ? style.fill : style.color).rgb;
    const [high, low] = [luminance(colour), luminance(ground(item.owner))].sort((first, second) => second - first);
    const contrast = (high + 0.05) / (low + 0.05);
    if (contrast < 4.5) faults.add(`${describe(item)} has a contrast of ${contrast.toFixed(2)}`);
  }
  return [...faults];
}

function findFaults(mayScroll) {
  const items = findItems();
  return [...overlaps(items), ...outside(items), ...outsideTables(mayScroll), ...pale(items)];
}
