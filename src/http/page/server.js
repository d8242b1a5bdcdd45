// What is asked of the server, how long it took, and the same as a command.

/** A reply that is no success, or none at all; `param` is the path of the field at fault, or null. */
export class Refused extends Error {
  constructor(status, error, retryAfter = null) {
    super(error?.message ?? `the server answered ${status}`);
    this.status = status;
    this.param = error?.param ?? null;
    this.retryAfter = retryAfter;
  }
}

/** The server of this page. The paths are relative, so that it may stand behind a prefix. */
export class Server {
  /** Of every request that was answered: path, status, candidates, tokens, milliseconds. */
  timings = [];
  key = "";

  async models() {
    return (await this.#json("v1/models", { headers: this.#headers() })).data;
  }

  /** Posts JSON, takes the time, and returns the reply or throws what was refused. */
  async post(path, body, candidates, signal) {
    const headers = { ...this.#headers(), "content-type": "application/json" };
    const timing = { at: new Date(), path: `/${path}`, status: null, candidates, tokens: null };
    const start = performance.now();
    const options = { method: "POST", headers, body: JSON.stringify(body), signal };
    try {
      const reply = await this.#json(path, options, (status) => (timing.status = status));
      timing.tokens = reply.usage.tokens;
      return reply;
    } finally {
      timing.milliseconds = performance.now() - start;
      // What was cancelled, or never reached the server, has no time to tell.
      if (timing.status !== null && !signal.aborted) this.timings.unshift(timing);
    }
  }

  async #json(path, options, answered = () => {}) {
    const response = await fetch(path, options).catch((error) => {
      // Whoever cancels knows of it.
      throw error.name === "AbortError" ? error : new Refused(null, { message: "the server does not answer" });
    });
    answered(response.status);
    if (response.ok) return response.json();
    const body = await response.json().catch(() => null);
    throw new Refused(response.status, body?.error, Number(response.headers.get("retry-after")) || null);
  }

  #headers() {
    return this.key ? { authorization: `Bearer ${this.key}` } : {};
  }
}

/** A request as a command; the key is a variable in it, so that it can be shown and shared. */
export function curl(path, body, withKey) {
  const quoted = JSON.stringify(body, null, 2).replaceAll("'", `'\\''`);
  const key = withKey ? ` \\\n  -H "authorization: Bearer $REWARDEN_API_KEY"` : "";
  const url = new URL(path, document.baseURI);
  return `curl -s ${url} \\\n  -H 'content-type: application/json'${key} \\\n  -d '${quoted}'`;
}
