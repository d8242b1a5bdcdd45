// Means with error bars, as a picture: one row a candidate, the best first.

import { drawn, number, snippet } from "./text.js";

const ROW = 30;
const AXIS = 26;
const END = 5;
/** Pixels that a candidate's letter takes, and a character of its text at most. */
const LETTER = 28;
const CHARACTER = 7.5;
/** Pixels below which there is no room for texts. */
const NARROW = 480;

/** Draws the rewards of `ranked` into `picture`, as wide as its place. */
export function draw(picture, ranked) {
  const width = Math.max(picture.parentElement.clientWidth, 240);
  const names = width < NARROW ? LETTER + 8 : Math.round(Math.min(240, width * 0.33));
  const height = ranked.length * ROW + AXIS;
  const scale = scaleOf(ranked, names, width - 16);
  picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
  picture.setAttribute("height", height);
  const rows = ranked.map((row, index) => drawnRow(picture, row, index, scale, names));
  picture.replaceChildren(axis(picture, scale, height - AXIS), ...rows);
}

/** What brings a reward to its place, and where the ticks are. */
function scaleOf(ranked, left, right) {
  const values = ranked.flatMap(({ mean, std, score }) => [mean - (std ?? 0), mean + (std ?? 0), score]);
  const ends = [Math.min(...values), Math.max(...values)];
  const margin = (ends[1] - ends[0]) * 0.06 || 1;
  const [low, high] = [ends[0] - margin, ends[1] + margin];
  const at = (value) => left + ((value - low) / (high - low)) * (right - left);
  return { at, ...ticksOf(low, high, (right - left) / 48) };
}

/** About `count` round numbers between two. */
function ticksOf(low, high, count) {
  const rough = (high - low) / Math.max(count, 2);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough);
  const first = Math.ceil(low / step);
  const length = Math.floor(high / step) - first + 1;
  const ticks = Array.from({ length }, (_, index) => (first + index) * step);
  return { ticks, digits: Math.max(0, -Math.floor(Math.log10(step) + 1e-9)) };
}

function axis(picture, { at, ticks, digits }, bottom) {
  const marks = ticks.flatMap((tick) => [
    drawn(picture, "line", { class: tick === 0 ? "zero" : "grid", x1: at(tick), x2: at(tick), y1: 0, y2: bottom }),
    drawn(picture, "text", { class: "tick", x: at(tick), y: bottom + 18 }, number(tick, digits)),
  ]);
  return drawn(picture, "g", {}, ...marks);
}

function drawnRow(picture, { name, text, mean, std, score }, index, { at }, names) {
  const y = index * ROW + ROW / 2;
  const words = snippet(text, Math.floor((names - LETTER) / CHARACTER));
  const letters = drawn(picture, "tspan", { class: "letter" }, name);
  return drawn(
    picture,
    "g",
    { class: index === 0 ? "best" : null },
    drawn(picture, "text", { x: 2, y: y + 4 }, letters, drawn(picture, "tspan", { x: LETTER }, words)),
    std === null ? null : errorBar(picture, at(mean - std), at(mean + std), y),
    drawn(picture, "circle", { class: "mean", cx: at(mean), cy: y, r: 4.5 }),
    drawn(picture, "path", { class: "score", d: diamond(at(score), y, 5.5) }),
  );
}

function errorBar(picture, from, to, y) {
  const ends = [from, to].map((x) => `M${x} ${y - END}v${2 * END}`).join("");
  return drawn(picture, "path", { class: "error-bar", d: `M${from} ${y}H${to}${ends}` });
}

function diamond(x, y, r) {
  return `M${x - r} ${y}L${x} ${y - r}L${x + r} ${y}L${x} ${y + r}Z`;
}
