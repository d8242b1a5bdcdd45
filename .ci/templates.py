#!/usr/bin/env python3
"""Real chat templates render as in transformers: `templates.py BINARY CASE WORK`.

The templates are those that TRL ships (Llama 3, 3.1, 3.2, Qwen 2.5 and 3, Gemma, Phi 3, Cohere, DeepSeek, GLM and others), and a
few short ones in the formats of older reward models; conversations of one and many turns, with a system message, odd white
space and other scripts. What transformers refuses must be refused.
"""
import glob
import importlib.util
import json
import os
import shutil
import subprocess
import sys

from transformers import AutoTokenizer

binary, case, work = sys.argv[1:]
turn = lambda role, content: {"role": role, "content": content}
CONVERSATIONS = [
    [turn("user", "How do I boil an egg?"), turn("assistant", "In water.")],
    [turn("system", "Be brief."), turn("user", "Hi"), turn("assistant", "Hello!")],
    [turn("user", "a"), turn("assistant", "b"), turn("user", "c"), turn("assistant", "d")],
    [turn("system", " "), turn("user", "  two  spaces \n\n"), turn("assistant", "\ttabs\t and\r\nlines \n")],
    [turn("user", "naïve café — 東京 🦀 Ελλάδα"), turn("assistant", "עברית \u200d <b>&amp;</b> {{ x }} {% y %}")],
    [turn("user", "x"), turn("assistant", "<think>\nwhy\n</think>\n\nbecause"), turn("user", "y"), turn("assistant", "z")],
    [turn("user", "")  , turn("assistant", "")],
    [turn("assistant", "first")],
    [turn("user", "a"), turn("user", "b")],
]
SHORT = {
    "chatml": "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}",
    "zephyr": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}\n{% endfor %}",
    "tulu": "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' }}{{ m['content'] }}"
            "{% if not loop.last %}{{ '\n' }}{% else %}{{ eos_token }}{% endif %}{% endfor %}",
    "oasst": "{% for m in messages %}{% if m['role'] == 'user' %}<|prompter|>{% else %}<|assistant|>{% endif %}"
             "{{ m['content'] }}{{ eos_token }}{% endfor %}",
    "vicuna": "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }} {% set rest = messages[1:] %}"
              "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}{{ 'USER: ' if m['role'] == 'user' else "
              "'ASSISTANT: ' }}{{ m['content'] | trim }}{{ ' ' if m['role'] == 'user' else eos_token }}{% endfor %}",
    "mistral": "{{ bos_token }}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
               "{{ raise_exception('roles must alternate') }}{% endif %}{% if m['role'] == 'user' %}"
               "{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}",
}


def shipped():
    folder = importlib.util.find_spec("trl").submodule_search_locations[0]  # not imported: it needs more than its files
    for path in sorted(glob.glob(os.path.join(folder, "chat_templates", "*.jinja"))):
        with open(path, encoding="utf-8") as file:
            yield os.path.basename(path), file.read()


def expected(tokenizer, template, conversation):
    try:
        return tokenizer.apply_chat_template(conversation, chat_template=template, tokenize=False)
    except Exception:  # whatever the template raises
        return None


base = os.path.join(work, "base")
shutil.copytree(os.path.join(case, "base"), base, dirs_exist_ok=True)
tokenizer = AutoTokenizer.from_pretrained(base)
items, wrong, count = os.path.join(work, "items.jsonl"), [], 0
with open(items, "w", encoding="utf-8") as file:
    file.writelines(json.dumps({"id": str(i), "messages": c}) + "\n" for i, c in enumerate(CONVERSATIONS))
for name, template in [*shipped(), *SHORT.items()]:
    with open(os.path.join(base, "chat_template.jinja"), "w", encoding="utf-8") as file:
        file.write(template)
    command = [binary, "render", "--model", base, "--input", items]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        wrong.append(f"{name}: {done.stderr.strip()[:300]}")
        continue
    for conversation, line in zip(CONVERSATIONS, map(json.loads, done.stdout.splitlines())):
        want, got = expected(tokenizer, template, conversation), line.get("text")
        # A template that needs more than a conversation fails in either; a text without a token is refused here.
        if got != want and not (want == "" and got is None):
            wrong.append(f"{name}, conversation {line['id']}:\n  want {want!r}\n  got  {got!r} {line.get('error', '')}")
        count += 1
print(f"{count} renderings, {len(wrong)} differ")
if wrong:
    sys.exit("\n".join(wrong[: int(os.environ.get("SHOWN", "20"))]))
