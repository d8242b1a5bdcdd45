"""Requests to the service, with nothing but the standard library."""
from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Iterable, Iterator, Mapping, Optional, Sequence, Union

Message = Mapping[str, str]
"""A turn of a conversation: `role` and `content`."""
Answer = Union[str, Sequence[Message]]
"""An answer to a prompt: text, or the messages that follow it."""
Item = Mapping[str, Any]
"""What can be scored: `prompt` and `response`, `messages`, `text` or `input_ids`; `id` comes back."""


class RewardenError(Exception):
    """The service refused a request; `param` names the field at fault."""

    def __init__(self, status: int, message: str, param: Optional[str] = None, code: Optional[str] = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code


class Overloaded(RewardenError):
    """The service has no room (503), still after all retries; it asked for `retry_after` seconds."""

    retry_after = 0.0


@dataclass(frozen=True)
class Penalty:
    """The penalty for uncertainty, as a request states it and as a reply echoes it. With c the contraction and v the variance:

    ============= ======================================= =========================================================
    kind          score                                   reads
    ============= ======================================= =========================================================
    "std"         mean - k sqrt(v)                        `k` (1), `above`
    "variance"    mean - k v                              `k` (1), `above`
    "contraction" mean - k spread (1 - c)                 `k` (the adapter's own), `above`; a stored spread
    "shrink"      baseline + c (mean - baseline)          `baseline` (the adapter's own)
    "kl"          mean - v / (2 beta)                     `beta`, which is needed
    "none"        mean
    ============= ======================================= =========================================================

    Numbers that are None are left to the service; it refuses a number that the kind does not read. `above` is a percentile from 0 to 1:
    only the uncertainty above that percentile of the held-out answers is penalised. `relative` is for `best_of_n`: the uncertainty is
    that of the difference to the mean of all candidates.
    """

    kind: str = "std"
    k: Optional[float] = None
    relative: bool = False
    baseline: Optional[float] = None
    beta: Optional[float] = None
    above: Optional[float] = None

    def _body(self) -> dict[str, Any]:
        numbers = {"k": self.k, "baseline": self.baseline, "beta": self.beta, "above": self.above}
        given = {name: number for name, number in numbers.items() if number is not None}
        return {"kind": self.kind, **given, **({"relative": True} if self.relative else {})}


@dataclass(frozen=True)
class Reward:
    """The posterior of one reward.

    `contraction` is the share of the prior variance that the preference pairs removed, `score` the mean less the penalty, `novelty` the
    percentile of 1 - contraction among the held-out answers and `variance_percentile` that of the variance. `model` is the fingerprint
    of the model that answered, `penalty` the penalty as the service applied it. What is not known is None.
    """

    index: int
    id: Optional[str]
    mean: float
    variance: Optional[float]
    std: Optional[float]
    contraction: Optional[float]
    score: float
    novelty: Optional[float]
    variance_percentile: Optional[float]
    novel: Optional[bool]
    tokens: int
    truncated: bool
    model: Optional[str] = None
    penalty: Optional[Penalty] = None


@dataclass(frozen=True)
class Comparison:
    """Two answers: mean, variance and contraction of `a` less `b`, and the probability that `a` is preferred.

    `contraction_difference` is None for equal answers, and without a posterior. `penalty` applies to the scores of `a` and `b`. `decided`
    is None where no `error_rate` was given.
    """

    mean_difference: float
    variance_difference: Optional[float]
    contraction_difference: Optional[float]
    covariance: Optional[float]
    preference_probability: float
    a: Reward
    b: Reward
    penalty: Optional[Penalty] = None
    decided: Optional[bool] = None


@dataclass(frozen=True)
class Ranked:
    """A candidate in its place; what was not computed is None.

    `contraction_relative`, `probability_best` and `expected_regret` are there in a report of all. The first is the contraction of the
    difference to the mean of all candidates. `probability_best` is information, not advice: as a rule for choosing it was worse than the
    mean (docs/study.md).
    """

    index: int
    mean: float
    variance: Optional[float]
    std: Optional[float]
    contraction: Optional[float]
    contraction_relative: Optional[float]
    score: Optional[float]
    novelty: Optional[float]
    variance_percentile: Optional[float]
    novel: Optional[bool]
    probability_best: Optional[float]
    expected_regret: Optional[float]
    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Choice:
    """What is chosen of several: the index of the best, and the ranking, the best first."""

    best: int
    ranking: list[Ranked]
    variances_computed: int
    thompson: Optional[int]
    covariance: Optional[list[list[float]]]
    penalty: Optional[Penalty] = None


class Client:
    """A connection's worth of settings; every call is a request of its own, so that threads may share one.

    `retries` bounds how often a request is sent again when the service is overloaded or cannot be reached, after the time that
    it asks for, or twice the last.
    """

    def __init__(self, url: str = "http://127.0.0.1:8080", *, model: Optional[str] = None, api_key: Optional[str] = None,
                 timeout: float = 60.0, retries: int = 5, batch_size: int = 64):
        if batch_size < 1:
            raise ValueError("batch_size: at least 1")
        self.url, self.model, self.timeout = url.rstrip("/"), model, timeout
        self.retries, self.batch_size = retries, batch_size
        self._headers = {"content-type": "application/json"}
        if api_key is not None:
            self._headers["authorization"] = f"Bearer {api_key}"

    def rewards(self, items: Iterable[Item], *, penalty: Optional[Penalty] = None, variance: Optional[bool] = None,
                truncation: Optional[str] = None, model: Optional[str] = None) -> list[Reward]:
        """Scores items, in requests of `batch_size` each; rewards come in the order of the items.

        Without a `penalty` the service applies the rule that is stored in the adapter, or else one standard deviation.
        Where the model is replaced in between, those of later requests have another `model`.
        """
        body = self._body(model, penalty, truncation, variance=variance)
        rewards: list[Reward] = []
        for batch in _batches(items, self.batch_size):
            reply, by = self._answer("POST", "/v1/rewards", {**body, "items": batch})
            start = len(rewards)
            applied = _penalty(reply)
            rewards += [_reward(start, data, by, applied) for data in reply["data"]]
        return rewards

    def compare(self, prompt: Answer, a: Answer, b: Answer, *, penalty: Optional[Penalty] = None,
                error_rate: Optional[float] = None, truncation: Optional[str] = None,
                model: Optional[str] = None) -> Comparison:
        """Compares two answers to a prompt, each text or messages.

        With an `error_rate` between 0 and 0.5 the reply says whether the pair is `decided`: only where the held-out pairs of the fit
        promise that at most this share of such verdicts is wrong.
        """
        body = self._body(model, penalty, truncation, prompt=prompt, a=a, b=b, error_rate=error_rate)
        reply, by = self._answer("POST", "/v1/compare", body)
        applied = _penalty(reply)
        known = {name: reply.get(name) for name in Comparison.__dataclass_fields__}
        both = {name: _reward(0, reply[name], by, applied) for name in ("a", "b")}
        return Comparison(**{**known, **both, "penalty": applied})

    def best_of_n(self, prompt: Answer, responses: Sequence[Answer], *, penalty: Optional[Penalty] = None,
                  top: Optional[int] = None, report: str = "best", seed: Optional[int] = None,
                  truncation: Optional[str] = None, model: Optional[str] = None) -> Choice:
        """The best of several answers to a prompt; `report="all"` tells everything, and a `seed` draws one as well."""
        thompson = None if seed is None else {"seed": seed}
        body = self._body(model, penalty, truncation, prompt=prompt, responses=list(responses), top=top, report=report,
                          thompson=thompson)
        reply = self._send("POST", "/v1/best-of-n", body)
        ranking = [Ranked(**{name: ranked.get(name) for name in Ranked.__dataclass_fields__})
                   for ranked in reply["ranking"]]
        drawn = reply.get("thompson")
        return Choice(reply["best"], ranking, reply["variances_computed"], drawn and drawn["index"],
                      reply.get("covariance"), _penalty(reply))

    def models(self) -> list[dict[str, Any]]:
        """The models that are served."""
        return self._send("GET", "/v1/models")["data"]

    def load_adapter(self, name: str, path: str, *, replace: bool = False, pinned: bool = False,
                     expected: Optional[str] = None) -> str:
        """Puts the adapter at a path below `--adapter-root` into service, and returns its fingerprint; for administrators.

        `replace` lets it take the place of a model with this name, `expected` only of one with this fingerprint (412 otherwise).
        """
        body = {"lora_name": name, "lora_path": path, "load_inplace": replace, "pinned": pinned}
        return self._change("/v1/load_lora_adapter", body, expected)

    def unload_adapter(self, name: str, *, expected: Optional[str] = None) -> str:
        """Takes a model out of service, and returns its fingerprint; for administrators."""
        return self._change("/v1/unload_lora_adapter", {"lora_name": name}, expected)

    def ready(self) -> bool:
        """Whether the service answers, and has its models loaded."""
        try:
            self._once("GET", "/readyz", None)
        except (RewardenError, OSError):
            return False
        return True

    def _body(self, model: Optional[str], penalty: Optional[Penalty], truncation: Optional[str],
              **more: Any) -> dict[str, Any]:
        """What is given of a request's fields."""
        body = {"model": model or self.model, "penalty": penalty and penalty._body(), "truncation": truncation, **more}
        return {key: value for key, value in body.items() if value is not None}

    def _change(self, path: str, body: Mapping[str, Any], expected: Optional[str]) -> str:
        """Not tried again: whether a change was made is not known where the answer is lost."""
        _, by = self._once("POST", path, body, {} if expected is None else {"if-match": f'"{expected}"'})
        return by or ""

    def _send(self, method: str, path: str, body: Optional[Mapping[str, Any]] = None) -> Any:
        return self._answer(method, path, body)[0]

    def _answer(self, method: str, path: str, body: Optional[Mapping[str, Any]]) -> tuple[Any, Optional[str]]:
        """The answer, and the fingerprint of the model that gave it."""
        wait = 0.5
        for attempt in range(self.retries + 1):
            try:
                answer, by = self._once(method, path, body)
                return json.loads(answer), by
            except Overloaded as error:
                if attempt == self.retries:
                    raise
                wait = max(wait, error.retry_after)
            except (urllib.error.URLError, socket.timeout, ConnectionError):
                if attempt == self.retries:
                    raise
            time.sleep(wait)
            wait *= 2
        raise AssertionError("unreachable")

    def _once(self, method: str, path: str, body: Optional[Mapping[str, Any]],
              headers: Mapping[str, str] = MappingProxyType({})) -> tuple[bytes, Optional[str]]:
        data = None if body is None else json.dumps(body, allow_nan=False).encode()
        headers = {**self._headers, **headers}
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return reply.read(), reply.headers.get("x-rewarden-model")
        except urllib.error.HTTPError as error:
            raise _refusal(error) from None


def _refusal(error: urllib.error.HTTPError) -> RewardenError:
    text = error.read().decode("utf-8", "replace")
    try:
        detail = json.loads(text)["error"]
        message, param, code = detail["message"], detail.get("param"), detail.get("code")
    except (ValueError, KeyError, TypeError):
        message, param, code = text or error.reason, None, None
    if error.code != 503:
        return RewardenError(error.code, str(message), param, code)
    overloaded = Overloaded(error.code, str(message), param, code)
    try:
        overloaded.retry_after = float(error.headers.get("retry-after", "0"))
    except ValueError:
        pass  # a date: the client's own wait will do
    return overloaded


def _reward(start: int, data: Mapping[str, Any], by: Optional[str], penalty: Optional[Penalty]) -> Reward:
    known = {name: data.get(name) for name in Reward.__dataclass_fields__}
    return Reward(**{**known, "index": start + data["index"], "model": by, "penalty": penalty})


def _penalty(reply: Mapping[str, Any]) -> Optional[Penalty]:
    """Returns the penalty that a reply echoes; None from a service that echoes none."""
    echoed = reply.get("penalty")
    return echoed and Penalty(**{name: echoed[name] for name in Penalty.__dataclass_fields__ if name in echoed})


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    batch: list[Item] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def item(prompt: Answer, answer: Answer) -> dict[str, Any]:
    """A prompt and an answer as an item, each text or messages."""
    if isinstance(answer, str):
        return {"prompt": prompt if isinstance(prompt, str) else list(prompt), "response": answer}
    before = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
    return {"messages": [*before, *answer]}
