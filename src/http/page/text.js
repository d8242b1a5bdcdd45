// Numbers and names as they are shown, and elements that show them.

/** A, B, .. Z, AA, AB, .. */
export function letter(index) {
  const last = String.fromCharCode(65 + (index % 26));
  return index < 26 ? last : letter(Math.floor(index / 26) - 1) + last;
}

/** A number with a real minus; `nothing` where there is none. */
export function number(value, digits = 2, nothing = "–") {
  if (value === null || value === undefined) return nothing;
  return value.toFixed(digits).replace("-", "−");
}

/** A penalty as the server applied it, as a formula of the score. */
export function formula({ kind, k, baseline, beta, above }) {
  const rules = {
    std: () => `mean − ${short(k)} × standard deviation`,
    variance: () => `mean − ${short(k)} × variance`,
    contraction: () => `mean − ${short(k)} × spread × (1 − contraction)`,
    shrink: () => `b + contraction × (mean − b), with the baseline b = ${short(baseline)}`,
    kl: () => `mean − variance / (2 × ${short(beta)})`,
    none: () => "mean",
  };
  const hinge = above === undefined ? "" : `, only above the held-out percentile ${short(above)}`;
  return `Score = ${rules[kind]?.() ?? kind}${hinge}.`;
}

/** A number in three significant digits at most. */
function short(value) {
  return String(Number(value.toPrecision(3))).replace("-", "−");
}

/** The start of a text, on one line; nothing where that says nothing. */
export function snippet(text, length) {
  if (length < 3) return "";
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > length ? `${line.slice(0, length - 1)}…` : line;
}

export function plural(count, one, many) {
  return `${count} ${count === 1 ? one : many}`;
}

/** Makes an element; what is null is left out. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Makes an element of a picture, in the namespace that the page's own has. */
export function drawn(picture, name, attributes = {}, ...children) {
  return filled(document.createElementNS(picture.namespaceURI, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}
