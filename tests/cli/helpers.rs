//! Running the program on copies of the fixtures.

use reqwest::RequestBuilder;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};
use tempfile::TempDir;

/// A case of the fixtures in a folder of its own, which a test may damage.
pub struct Workspace {
    folder: TempDir,
}

impl Workspace {
    pub fn new(case: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases").join(case);
        copy(&from, folder.path());
        Self { folder }
    }

    pub fn path(&self, part: &str) -> PathBuf {
        self.folder.path().join(part)
    }

    pub fn read(&self, part: &str) -> Vec<u8> {
        fs::read(self.path(part)).unwrap()
    }

    pub fn write(&self, part: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(part), bytes).unwrap();
    }

    /// A command with the program, in this folder, with nothing of the environment's settings, and without the hub.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_rewarden"));
        command.current_dir(self.folder.path()).args(arguments.split_whitespace());
        let setting = |name: &str| {
            let begins = ["REWARDEN_", "HF_", "HUGGINGFACE_"].iter().any(|start| name.starts_with(start));
            begins || name.to_uppercase().ends_with("_PROXY")
        };
        for (name, _) in std::env::vars().filter(|(name, _)| setting(name)) {
            command.env_remove(name);
        }
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("hf"));
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Standard output of a run that must succeed.
    pub fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The message of a run that must fail: exit code 1 and one line that begins with `error: `.
    pub fn fail(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments}: {stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        let errors: Vec<&str> = stderr.split("error: ").collect();
        assert_eq!(errors.len(), 2, "{stderr}");
        errors[1].trim_end().to_owned()
    }
}

/// The service, until it is dropped.
pub struct Serving {
    program: Child,
    address: String,
    client: reqwest::Client,
}

impl Serving {
    /// Starts a command that serves, and waits until it is ready.
    pub async fn ready(mut command: Command) -> Self {
        let mut program = command.stderr(Stdio::piped()).spawn().unwrap();
        let mut log = BufReader::new(program.stderr.take().unwrap()).lines().map(Result::unwrap);
        let address =
            log.find_map(|line| Some(line.split_once("listening on ")?.1.split_once(' ')?.0.to_owned()));
        // What is not read any more must not stop the program.
        std::thread::spawn(move || log.for_each(drop));
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let address = address.expect("the service ended before it listened");
        let serving = Self { program, address, client };
        for _ in 0..1200 {
            if serving.get("/readyz").send().await.unwrap().status() == 200 {
                return serving;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not ready in time");
    }

    pub fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.address))
    }

    pub fn post(&self, path: &str) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.address))
    }
}

#[cfg(feature = "otlp")]
impl Serving {
    /// Asks it to end, and waits until it has.
    pub fn stop(mut self) {
        let asked = Command::new("kill").arg(self.program.id().to_string()).status().unwrap();
        assert!(asked.success() && self.program.wait().unwrap().success());
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

/// Whether every part is in the message.
pub fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

/// A stored tensor: type, shape, bytes.
pub type Stored = (Dtype, Vec<usize>, Vec<u8>);

/// Rewrites a safetensors file after a change to its tensors.
pub fn change(workspace: &Workspace, file: &str, with: impl FnOnce(&mut BTreeMap<String, Stored>)) {
    let bytes = workspace.read(file);
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let whole = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: BTreeMap<String, Stored> = whole
        .iter()
        .map(|(name, view)| (name.into(), (view.dtype(), view.shape().to_vec(), view.data().to_vec())))
        .collect();
    with(&mut tensors);
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    workspace.write(file, safetensors::serialize(views, header.metadata().clone()).unwrap());
}

/// The first name that has this part.
pub fn first(tensors: &BTreeMap<String, Stored>, part: &str) -> String {
    tensors.keys().find(|name| name.contains(part)).unwrap().clone()
}

pub fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
}
