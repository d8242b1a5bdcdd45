//! Chat templates: a conversation becomes the text that the model was trained on.
//!
//! The templates are Jinja, rendered as Hugging Face transformers renders them: `trim_blocks` and
//! `lstrip_blocks`, loop controls, `raise_exception`, `strftime_now`, Python's string methods, `tojson`
//! as `json.dumps(ensure_ascii=False)`, and the special tokens (`bos_token`, ...) in the context.
//! `{% generation %}` marks tokens to train on and changes no text, so it is read as a plain block.
//! A template comes with a model and is not trusted: instructions, recursion and output are bounded, and a service renders in
//! processes of their own ([`apart`]), since nothing else bounds memory and the stack.

use std::{borrow::Cow, collections::BTreeMap, fmt::Write as _, io, ops::Range, path::Path};

use minijinja::{Environment, ErrorKind, Output, State, Value, context, escape_formatter, value::ValueKind};
use minijinja_contrib::pycompat;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{Error, Result, item::Message};

pub mod apart;
mod json;

use apart::Apart;

/// Instructions that one rendering may take: a usual template needs under 200 a message.
const FUEL: u64 = 5_000_000;
/// Depth of nested calls: macros that call themselves.
const RECURSION: usize = 128;
/// Bytes that one rendering may write.
const MAX_RENDERED: usize = 64 << 20;
/// Bytes of the template itself.
const MAX_SOURCE: usize = 1 << 20;
/// The template's name inside its environment, seen in messages.
const NAME: &str = "chat template";
/// Stands for the last message's text in [`Template::last_text`]; private-use characters, so that no
/// template trims or splits it.
const SENTINEL: &str = "\u{F8D0}\u{F8D1}\u{F8D2}\u{F8D3}";

/// A chat template that renders.
#[derive(Debug)]
pub struct Template {
    engine: Engine,
    sha256: String,
}

/// Where it renders.
#[derive(Debug)]
enum Engine {
    Here(Box<Compiled>),
    Apart(Apart),
}

/// A compiled chat template with the special tokens that it may name.
#[derive(Debug)]
struct Compiled {
    environment: Environment<'static>,
    special_tokens: BTreeMap<String, String>,
}

/// A message as the template sees it.
#[derive(Debug, Serialize, Deserialize)]
struct Turn<'a> {
    role: Cow<'a, str>,
    content: Cow<'a, str>,
}

impl Template {
    /// Compiles `source`, found in the file `path`; `special_tokens` maps `bos_token` and the like to text.
    pub fn compile(path: &Path, source: &str, special_tokens: BTreeMap<String, String>) -> Result<Self> {
        if source.len() > MAX_SOURCE {
            return Err(Error::file(path, format!("chat template is larger than {MAX_SOURCE} bytes")));
        }
        let sha256 = format!("{:x}", Sha256::digest(source.as_bytes()));
        let wrong = |message: String| Error::file(path, message);
        let engine = match apart::program() {
            Some(program) => Engine::Apart(Apart::start(program, source, special_tokens).map_err(wrong)?),
            None => Engine::Here(Box::new(Compiled::new(source, special_tokens).map_err(wrong)?)),
        };
        Ok(Self { engine, sha256 })
    }

    /// Returns the SHA-256 of the template's source, in hexadecimal.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Renders the conversation, without a generation prompt.
    pub fn render(&self, messages: &[Message]) -> Result<String> {
        let turn = |Message { role, content }: &Message| Turn {
            role: role.clone().into(),
            content: content.text().into_owned().into(),
        };
        let turns: Vec<Turn> = messages.iter().map(turn).collect();
        let rendered = match &self.engine {
            Engine::Here(compiled) => compiled.render(&turns),
            Engine::Apart(apart) => apart.render(&turns),
        };
        // A template fails on what it was given: a role out of turn, a system message it does not know.
        rendered
            .map_err(|message| Error::field("messages", format!("refused by the chat template: {message}")))
    }

    /// Finds where the last message's text stands in `rendered`, the rendering of `messages`: between
    /// what the template puts before it and its suffix, as a second rendering with a sentinel shows them.
    pub fn last_text(&self, messages: &[Message], rendered: &str) -> Result<Range<usize>> {
        let mut marked = messages.to_vec();
        if let Some(last) = marked.last_mut() {
            *last = Message::new(last.role.clone(), SENTINEL);
        }
        let lost =
            || Error::field("truncation", "`keep-suffix` needs a template that keeps the last message");
        // The sentinel is not the client's: what the template says of it would mislead.
        let marked = self.render(&marked).map_err(|_| lost())?;
        let at = marked.rfind(SENTINEL).ok_or_else(lost)?;
        let body = rendered.strip_suffix(&marked[at + SENTINEL.len()..]).ok_or_else(lost)?;
        // Templates that read the text (a `<think>` part moved to the front) change what stands before it.
        let start = common_prefix(body, &marked[..at]);
        Ok(start..body.len())
    }
}

impl Compiled {
    /// Compiles a template; what is wrong with it is told without a place.
    fn new(source: &str, special_tokens: BTreeMap<String, String>) -> Result<Self, String> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_recursion_limit(RECURSION);
        environment.set_unknown_method_callback(pycompat::unknown_method_callback);
        environment.set_formatter(python_constants);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment.add_filter("tojson", json::tojson);
        environment.add_test("iterable", iterable);
        environment.add_template_owned(NAME, without_generation_tags(source)).map_err(|e| e.to_string())?;
        Ok(Self { environment, special_tokens })
    }

    fn render(&self, turns: &[Turn]) -> Result<String, String> {
        self.rendered(turns).map_err(|e| e.to_string())
    }

    fn rendered(&self, turns: &[Turn]) -> Result<String, minijinja::Error> {
        let template = self.environment.get_template(NAME)?;
        let own = context! {
            messages => turns,
            tools => Value::from(()),
            documents => Value::from(()),
            add_generation_prompt => false,
        };
        let context = context! { ..own, ..Value::from_serialize(&self.special_tokens) };
        let mut output = Bounded(Vec::new());
        template.render_captured_to(context, &mut output)?;
        String::from_utf8(output.0).map_err(|e| minijinja::Error::new(ErrorKind::WriteFailure, e.to_string()))
    }
}

/// An output buffer that ends in an error where it would grow past [`MAX_RENDERED`] bytes.
struct Bounded(Vec<u8>);

impl io::Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_RENDERED {
            return Err(io::Error::other("rendered text is too long"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints constants with Python's names.
fn python_constants(out: &mut Output, state: &State, value: &Value) -> Result<(), minijinja::Error> {
    let name = match value.kind() {
        ValueKind::None => "None",
        ValueKind::Bool if value.is_true() => "True",
        ValueKind::Bool => "False",
        _ => return escape_formatter(out, state, value),
    };
    out.write_str(name).map_err(|_| ErrorKind::WriteFailure.into())
}

/// As in Python, where nothing can be iterated over but what has items: `None` is not empty.
fn iterable(value: &Value) -> bool {
    !value.is_none() && value.try_iter().is_ok()
}

fn raise_exception(message: String) -> Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
}

/// Formats the local time; a directive that chrono does not know is an error, where `to_string` would panic.
fn strftime_now(format: &str) -> Result<String, minijinja::Error> {
    let mut out = String::new();
    write!(out, "{}", chrono::Local::now().format(format)).map_err(|_| {
        minijinja::Error::new(ErrorKind::InvalidOperation, format!("bad time format: {format}"))
    })?;
    Ok(out)
}

/// Length in bytes of the longest common prefix, at a character boundary of both.
fn common_prefix(a: &str, b: &str) -> usize {
    a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum()
}

/// Rewrites `{% generation %}` and `{% endgeneration %}`, which minijinja does not know, into a block that
/// always runs; the marks of whitespace control stay.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let (before, tag) = rest.split_at(open + 2);
        out.push_str(before);
        let Some(close) = tag.find("%}") else { return out + tag };
        let inner = &tag[..close];
        let word = inner.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        out.push_str(&match word {
            "generation" => inner.replacen(word, "if true", 1),
            "endgeneration" => inner.replacen(word, "endif", 1),
            _ => inner.to_owned(),
        });
        rest = &tag[close..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> Template {
        let special_tokens = BTreeMap::from([("bos_token".to_owned(), "<s>".to_owned())]);
        Template::compile(Path::new("chat_template.jinja"), source, special_tokens).unwrap()
    }

    fn conversation(texts: &[&str]) -> Vec<Message> {
        let roles = ["user", "assistant"].into_iter().cycle();
        roles.zip(texts).map(|(role, text)| Message::new(role, *text)).collect()
    }

    /// Expected texts are those of transformers 5.23 (Jinja2 3.1.6) on the same templates.
    #[test]
    fn renders_as_transformers_does() {
        let table = [
            ("{{ bos_token }}{{ eos_token }}|", "<s>|"),
            (
                "{% for m in messages %}\n  {% if true %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}\n",
                "é \n<b>\n",
            ),
            ("{% for m in messages %}{{ m['content'] | trim }};{% endfor %}", "é;<b>;"),
            (
                "{{ messages | tojson }}",
                r#"[{"role": "user", "content": "é "}, {"role": "assistant", "content": "<b>"}]"#,
            ),
            ("{{ messages[0] | tojson(indent=2) }}", "{\n  \"role\": \"user\",\n  \"content\": \"é \"\n}"),
            (
                "{{ {'z': 1, 'a': [1.5, none, true], 'e': [], 'f': {}} | tojson }}",
                r#"{"z": 1, "a": [1.5, null, true], "e": [], "f": {}}"#,
            ),
            ("{{ messages[0].content | tojson(ensure_ascii=true) }}", r#""\u00e9 ""#),
            ("{{ messages[0].content.strip().upper() }}", "É"),
            (
                "{{ {'z': 1, 'a': [1.5, none], 'e': [], 'f': {}} | tojson(indent=1) }}",
                "{\n \"z\": 1,\n \"a\": [\n  1.5,\n  null\n ],\n \"e\": [],\n \"f\": {}\n}",
            ),
            (
                "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
                "user",
            ),
            (
                "{% for m in messages %}{%- generation -%} {{ m.role }} {%- endgeneration -%}{% endfor %}",
                "userassistant",
            ),
            (
                "{% if tools is not none %}tools{% endif %}{% if not add_generation_prompt %}no{% endif %}",
                "no",
            ),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            (
                "{{ messages[1:] | length }}{{ messages[-1].role }}{{ 'b' in messages[1].content }}",
                "1assistantTrue",
            ),
            (
                "{{ none is iterable }}{{ 5 is iterable }}{{ 'a' is iterable }}{{ [] is iterable }}{{ x is iterable }}",
                "FalseFalseTrueTrueTrue",
            ),
            ("{% macro x(a, b='c') %}{{ a ~ b }}{% endmacro %}{{ x('d') }}", "dc"),
        ];
        for (source, want) in table {
            assert_eq!(template(source).render(&conversation(&["é ", "<b>"])).unwrap(), want, "{source}");
        }
    }

    #[test]
    fn strftime_now_knows_python_directives() {
        let today = template("{{ strftime_now('%d %b %Y') }}").render(&conversation(&["x"])).unwrap();
        assert_eq!(today.split(' ').count(), 3, "{today}");
        assert!(template("{{ strftime_now('%Q') }}").render(&conversation(&["x"])).is_err());
    }

    #[test]
    fn a_refusal_names_the_field_and_the_reason() {
        let refusing = template("{{ raise_exception('roles must alternate') }}");
        let message = refusing.render(&conversation(&["x"])).unwrap_err().to_string();
        assert!(message.starts_with("messages: ") && message.contains("roles must alternate"), "{message}");
    }

    #[test]
    fn hostile_templates_end() {
        for source in [
            "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
            "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
            "{% for a in range(100000) %}{{ messages[0].content }}{% endfor %}",
        ] {
            assert!(
                template(source).render(&conversation(&["x".repeat(1000).as_str()])).is_err(),
                "{source}"
            );
        }
    }

    #[test]
    fn a_syntax_error_names_the_file() {
        let path = Path::new("m/chat_template.jinja");
        let message = Template::compile(path, "{% for %}", BTreeMap::new()).unwrap_err().to_string();
        assert!(message.starts_with("m/chat_template.jinja: syntax error"), "{message}");
    }

    #[test]
    fn the_last_text_is_found() {
        let chatml = "{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}<|end|>\n{% endfor %}";
        let thinking = "{% for m in messages %}[{% if '</t>' in m.content %}{{ m.content.split('</t>')[0] }}|\
                        {% endif %}{{ m.content.split('</t>')[-1] }}]{% endfor %}";
        let table = [
            (chatml, vec!["a", " some text\n"], "some text"),
            (chatml, vec!["same", "same"], "same"),
            (chatml, vec!["x", ""], ""),
            (chatml, vec!["a", "<|end|>\n"], "<|end|>"),
            (thinking, vec!["a", "b</t>c"], "b|c"),
        ];
        for (source, texts, want) in table {
            let (template, messages) = (template(source), conversation(&texts));
            let rendered = template.render(&messages).unwrap();
            let span = template.last_text(&messages, &rendered).unwrap();
            assert_eq!(&rendered[span], want, "{texts:?}");
        }
    }
}
