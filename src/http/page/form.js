// The form: its candidates, what is asked of the server, and errors beside the fields that they are about.

import { WrongLine, ofBoxes, ofLines } from "./candidates.js";
import { element, letter } from "./text.js";

const $ = (id) => document.getElementById(id);

/** A field of the page that cannot be sent. */
export class WrongField extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/** Fields of a request, and where they stand. */
const FIELDS = [
  [/^model$/, "model"],
  [/^penalty\.k$/, "k"],
  [/^penalty\.baseline$/, "baseline"],
  [/^penalty\.beta$/, "beta"],
  [/^(penalty|variance)/, "penalty"],
  [/^truncation$/, "truncation"],
  [/^(prompt$|items\[\d+\]\.prompt)/, "prompt"],
];

/** Numbers of a penalty, and the kinds that read them. */
const NUMBERS = {
  k: ["std", "variance", "contraction"],
  baseline: ["shrink"],
  beta: ["kl"],
};

export class Form {
  #models = [];

  /** `changed` is called when there may be another thing to score. */
  constructor(changed) {
    this.changed = changed;
    $("add").addEventListener("click", () => this.add().focus());
    for (const mode of document.querySelectorAll("[name=mode]")) {
      mode.addEventListener("change", () => this.#switched());
    }
    $("file").addEventListener("change", () => this.#read());
    this.add();
    this.add();
    this.#switched();
  }

  get prompt() {
    return $("prompt").value;
  }

  get byLine() {
    return document.querySelector("[name=mode]:checked").value === "lines";
  }

  get model() {
    return this.#models.find(({ id }) => id === $("model").value);
  }

  /** Lists the models, and keeps the one that was chosen. */
  set models(models) {
    const chosen = $("model").value;
    this.#models = models;
    const name = ({ id, posterior }) => (posterior ? id : `${id} (without variances)`);
    $("model").replaceChildren(...models.map((model) => element("option", { value: model.id }, name(model))));
    if (models.some(({ id }) => id === chosen)) $("model").value = chosen;
    this.settle();
  }

  /** Disables the penalty where the model has no posterior, and shows the numbers that the chosen kind reads. */
  settle() {
    const posterior = this.model?.posterior ?? true;
    const kind = $("penalty").value;
    $("penalty").disabled = !posterior;
    for (const [name, kinds] of Object.entries(NUMBERS)) {
      $(name).closest(".field").hidden = !posterior || !kinds.includes(kind);
    }
    $("k").placeholder = kind === "contraction" ? "the adapter’s own" : "1";
  }

  /** The candidates; throws the field that is wrong. */
  candidates() {
    try {
      if (this.byLine) return ofLines(this.prompt, $("jsonl").value);
    } catch (error) {
      throw error instanceof WrongLine ? new WrongField("jsonl", error.message) : error;
    }
    return this.prompt.trim() === "" ? [] : ofBoxes(this.prompt, [...$("list").querySelectorAll("textarea")]);
  }

  /** What is asked of the server, beside the candidates. */
  options() {
    const options = {};
    if (this.model) options.model = this.model.id;
    // The error bars need the variance, whatever the penalty. Without a penalty the server applies the adapter's rule.
    if (this.model?.posterior) Object.assign(options, { penalty: this.#penalty(), variance: true });
    if ($("truncation").value) options.truncation = $("truncation").value;
    return options;
  }

  /** The penalty as a request states it; undefined for the adapter's own rule. */
  #penalty() {
    const kind = $("penalty").value;
    if (kind === "") return undefined;
    const read = Object.keys(NUMBERS).filter((name) => NUMBERS[name].includes(kind));
    const numbers = read.map((name) => [name, this.#number(name)]).filter(([, value]) => value !== undefined);
    return { kind, ...Object.fromEntries(numbers) };
  }

  /** A number of the penalty; undefined where the field is empty, which leaves it to the server. */
  #number(name) {
    const { valueAsNumber, validity } = $(name);
    if (validity.badInput) throw new WrongField(name, "must be a number");
    if (!Number.isNaN(valueAsNumber)) return valueAsNumber;
    if (name === "beta") throw new WrongField(name, "needed: a number above 0");
    return undefined;
  }

  /** Shows an error beside its field, and says whether it has one. */
  blame({ message, param, field, status }, candidates) {
    const known = field ?? (status === 401 || status === 403 ? "key" : null) ?? this.#fieldOf(param, candidates);
    if (known === null) return false;
    const input = typeof known === "string" ? $(known) : known;
    input.setAttribute("aria-invalid", "true");
    const place = param?.match(/^items\[(\d+)\]/);
    const line = this.byLine && place ? `line ${candidates[place[1]].place}: ` : "";
    $(input.getAttribute("aria-describedby").split(" ").at(-1)).textContent = line + message;
    return true;
  }

  /** Takes back every error. */
  clear() {
    document.querySelectorAll("form [aria-invalid]").forEach((input) => input.removeAttribute("aria-invalid"));
    document.querySelectorAll("form .error").forEach((error) => (error.textContent = ""));
  }

  #fieldOf(param, candidates) {
    if (param === null || param === undefined) return null;
    const place = param.match(/^items\[(\d+)\]/);
    if (place && this.byLine) return "jsonl";
    const known = FIELDS.find(([pattern]) => pattern.test(param));
    if (known) return known[1];
    if (place) return candidates[place[1]].place;
    return param === "items" ? "candidates" : null;
  }

  /** Adds a box for a candidate, and returns it. */
  add(text = "") {
    const item = $("box").content.cloneNode(true).firstElementChild;
    const box = item.querySelector("textarea");
    box.value = text;
    item.querySelector(".remove").addEventListener("click", () => this.#remove(item));
    $("list").append(item);
    this.#letter();
    return box;
  }

  /** Replaces what is to be scored. */
  fill(prompt, answers) {
    $("prompt").value = prompt;
    document.querySelector("[name=mode][value=boxes]").checked = true;
    $("list").replaceChildren();
    answers.forEach((answer) => this.add(answer));
    this.#switched();
  }

  #remove(item) {
    const next = item.nextElementSibling ?? item.previousElementSibling;
    item.remove();
    (next ?? this.add().closest("li")).querySelector("textarea").focus();
    this.#letter();
    this.changed();
  }

  /** Names the boxes by the letters that the results have, and ties labels and errors to them. */
  #letter() {
    for (const [index, item] of [...$("list").children].entries()) {
      const [id, name] = [`candidate-${index}`, letter(index)];
      const box = item.querySelector("textarea");
      Object.assign(item.querySelector(".error"), { id: `${id}-error` });
      Object.assign(item.querySelector("label"), { htmlFor: id, textContent: name, title: `Candidate ${name}` });
      box.setAttribute("aria-describedby", `${id}-error`);
      box.setAttribute("aria-label", `Candidate ${name}`);
      box.id = id;
      item.querySelector(".remove").setAttribute("aria-label", `Remove candidate ${name}`);
    }
  }

  #switched() {
    $("boxes").hidden = this.byLine;
    $("lines").hidden = !this.byLine;
    this.changed();
  }

  async #read() {
    const [file] = $("file").files;
    if (!file) return;
    $("jsonl").value = await file.text();
    this.changed();
  }
}
