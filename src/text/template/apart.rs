//! A template in a process of its own: whatever it does to memory, stack or time ends that process and not the service.
//!
//! The process is this program, started again with [`COMMAND`]. It reads the template and then conversations, a line of JSON each, and
//! answers each with a line. A second thread of it ends it where one takes too long or too much. It is started again for the next
//! conversation.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio, exit},
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, sleep},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Compiled, MAX_RENDERED, Turn};

/// The hidden command that serves one template.
pub const COMMAND: &str = "render-template";
/// Longest time to compile a template, or to render a conversation.
const LONGEST: Duration = Duration::from_secs(2);
/// Bytes of memory that it may take.
const MOST: u64 = 1 << 30;
/// Time between two looks at clock and memory.
const EVERY: Duration = Duration::from_millis(10);
/// Bytes of an answer's line: each byte of the text may be written as six.
const LONGEST_LINE: u64 = 6 * MAX_RENDERED as u64 + 64;

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// From here on templates render in processes of `program`, which knows [`COMMAND`].
pub fn isolate(program: PathBuf) {
    // The first call decides.
    drop(PROGRAM.set(program));
}

/// The program that renders, where templates do so apart.
pub(super) fn program() -> Option<&'static Path> {
    PROGRAM.get().map(PathBuf::as_path)
}

/// A template, and the process that renders it.
#[derive(Debug)]
pub(super) struct Apart {
    program: PathBuf,
    template: String,
    running: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// The first line that the process reads.
#[derive(Serialize, Deserialize)]
struct Source {
    source: String,
    special_tokens: BTreeMap<String, String>,
}

impl Apart {
    /// Compiles the template in a process, which then waits for conversations.
    pub fn start(
        program: &Path,
        source: &str,
        special_tokens: BTreeMap<String, String>,
    ) -> Result<Self, String> {
        let source = Source { source: source.to_owned(), special_tokens };
        let template = serde_json::to_string(&source).map_err(|e| e.to_string())?;
        let running = Running::start(program, &template)?;
        Ok(Self { program: program.to_owned(), template, running: Mutex::new(Some(running)) })
    }

    pub fn render(&self, turns: &[Turn]) -> Result<String, String> {
        let line = serde_json::to_string(turns).map_err(|e| e.to_string())?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = match running.take() {
            Some(process) => process,
            None => Running::start(&self.program, &self.template)?,
        };
        let answer = process.ask(&line);
        // One that gave no answer is gone.
        *running = answer.is_ok().then_some(process);
        answer?
    }
}

impl Running {
    fn start(program: &Path, template: &str) -> Result<Self, String> {
        let mut command = Command::new(program);
        command.arg(COMMAND).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|e| format!("{}: {e}", program.display()))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err("the process that renders has no pipes".into());
        };
        let mut running = Self { child, input, output: BufReader::new(output) };
        running.ask(template)??;
        Ok(running)
    }

    /// The answer to a line; an error of the outer kind where there is none.
    fn ask(&mut self, line: &str) -> Result<Result<String, String>, String> {
        self.asked(line)
            .map_err(|_| format!("took more than {} s, {} MiB or the stack", LONGEST.as_secs(), MOST >> 20))
    }

    fn asked(&mut self, line: &str) -> io::Result<Result<String, String>> {
        self.input.write_all(line.as_bytes())?;
        self.input.write_all(b"\n")?;
        self.input.flush()?;
        let mut answer = Vec::new();
        (&mut self.output).take(LONGEST_LINE).read_until(b'\n', &mut answer)?;
        Ok(serde_json::from_slice(&answer)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself; waited for, it leaves nothing behind.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Compiles the template of the first line, then renders the conversations of the others; the process does nothing else.
pub fn serve() -> io::Result<()> {
    let watch = Watch::start()?;
    let mut lines = BufReader::new(io::stdin().lock());
    let Some(Source { source, special_tokens }) = next(&mut lines)? else { return Ok(()) };
    let compiled = watch.during(|| Compiled::new(&source, special_tokens));
    answer(compiled.as_ref().map(|_| String::new()).map_err(Clone::clone))?;
    let Ok(compiled) = compiled else { return Ok(()) };
    while let Some(turns) = next::<Vec<Turn>>(&mut lines)? {
        answer(watch.during(|| compiled.render(&turns)))?;
    }
    Ok(())
}

fn next<T: DeserializeOwned>(lines: &mut impl BufRead) -> io::Result<Option<T>> {
    let mut line = Vec::new();
    match lines.read_until(b'\n', &mut line)? {
        0 => Ok(None),
        _ => Ok(Some(serde_json::from_slice(&line)?)),
    }
}

fn answer(answer: Result<String, String>) -> io::Result<()> {
    let mut output = io::stdout().lock();
    serde_json::to_writer(&mut output, &answer)?;
    output.write_all(b"\n")?;
    output.flush()
}

/// Ends the process where work takes too long, or memory too much.
struct Watch {
    started: Instant,
    /// Milliseconds from the start to the beginning of what is under way, and one more; 0 for nothing.
    since: &'static AtomicU64,
}

impl Watch {
    fn start() -> io::Result<Self> {
        static SINCE: AtomicU64 = AtomicU64::new(0);
        let watch = Self { started: Instant::now(), since: &SINCE };
        let started = watch.started;
        thread::Builder::new().name("watch".into()).spawn(move || {
            loop {
                sleep(EVERY);
                let since = SINCE.load(Ordering::Relaxed);
                let over =
                    since > 0 && milliseconds(started).saturating_sub(since) > milliseconds_of(LONGEST);
                if over || resident().is_some_and(|bytes| bytes > MOST) {
                    exit(1);
                }
            }
        })?;
        Ok(watch)
    }

    fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        self.since.store(milliseconds(self.started) + 1, Ordering::Relaxed);
        let done = work();
        self.since.store(0, Ordering::Relaxed);
        done
    }
}

fn milliseconds(since: Instant) -> u64 {
    milliseconds_of(since.elapsed())
}

fn milliseconds_of(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Bytes of memory that the process holds, where the system says so.
fn resident() -> Option<u64> {
    const PAGE: u64 = 4096;
    let pages = std::fs::read_to_string("/proc/self/statm").ok()?.split(' ').nth(1)?.parse::<u64>().ok()?;
    Some(pages * PAGE)
}
