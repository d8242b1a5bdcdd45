//! Who may reach the service, and how.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use tokio::net::TcpListener;

use crate::{
    Error, Result,
    engine::terms::Priority,
    http::{
        Config, Sockets,
        access::{
            Role,
            keys::{Key, Keys, Secret},
        },
        cors::Origin,
        tls::Tls,
    },
};

/// What logs call the key of `--api-key`.
const NAME: &str = "api-key";

/// Flags about access.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct AccessArgs {
    /// Address to listen on; 0.0.0.0 is every interface
    #[arg(long, default_value = "127.0.0.1", env = "REWARDEN_HOST")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 8080, env = "REWARDEN_HTTP_PORT")]
    port: u16,
    /// Port for /metrics, which is then not on the other; 0 takes a free one
    #[arg(long, value_name = "PORT", env = "REWARDEN_METRICS_PORT")]
    metrics_port: Option<u16>,
    /// Address for the metrics' port [default: that of --host]
    #[arg(long, value_name = "HOST", requires = "metrics_port", env = "REWARDEN_METRICS_HOST")]
    metrics_host: Option<IpAddr>,
    /// API keys, one JSON object a line: {"name", "key": "KEY" or "sha256:HEX", "roles": ["score", "metrics", "admin"]}, and
    /// "priority", the highest that its requests may have ("normal" by default); with keys, only the probes are open to everyone
    #[arg(long, value_name = "FILE", env = "REWARDEN_KEYS")]
    keys: Option<PathBuf>,
    /// An API key with the role score, as it is or as sha256:HEX; give it in the environment, since command lines can be read by
    /// other users
    #[arg(long, value_name = "KEY", env = "REWARDEN_API_KEY", hide_env_values = true)]
    api_key: Option<Secret>,
    /// Origin whose pages may call the service from browsers, such as `https://example.com`, or `*` for every one; repeatable
    /// [default: none]
    #[arg(long, value_name = "ORIGIN", env = "REWARDEN_CORS_ORIGIN", value_delimiter = ',')]
    cors_origin: Vec<Origin>,
    /// Name that requests may call the service by, where it listens on this machine alone without API keys; addresses and `localhost`
    /// always may. Repeatable
    #[arg(long, value_name = "NAME", env = "REWARDEN_ALLOW_HOST", value_delimiter = ',')]
    allow_host: Vec<String>,
    /// Certificate in PEM, with those that lead to its root: the service then speaks TLS only
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "REWARDEN_TLS_CERTIFICATE")]
    tls_certificate: Option<PathBuf>,
    /// Key of the certificate in PEM, not encrypted
    #[arg(long, value_name = "FILE", requires = "tls_certificate", env = "REWARDEN_TLS_KEY")]
    tls_key: Option<PathBuf>,
}

/// What the flags say, read and checked.
pub struct Access {
    keys: Keys,
    origins: Vec<Origin>,
    hosts: Vec<String>,
    tls: Option<Tls>,
    address: SocketAddr,
    metrics: Option<SocketAddr>,
}

impl AccessArgs {
    /// Reads the files.
    pub fn read(self) -> Result<Access> {
        let Self { host, port, metrics_port, metrics_host, cors_origin: origins, allow_host: hosts, .. } =
            self;
        let metrics = metrics_port.map(|port| (metrics_host.unwrap_or(host), port).into());
        let tls = match (&self.tls_certificate, &self.tls_key) {
            (Some(certificate), Some(key)) => Some(Tls::read(certificate, key)?),
            _ => None,
        };
        let mut keys = self.keys.as_deref().map(Keys::read).transpose()?.unwrap_or_default();
        if let Some(secret) = &self.api_key {
            let key = Key::new(NAME, secret, vec![Role::Score]).map(|key| key.up_to(Priority::High));
            let added = key.and_then(|key| keys.add(key));
            added.map_err(|error| Error::Usage(format!("--api-key: {error}")))?;
        }
        Ok(Access { keys, origins, hosts, tls, address: (host, port).into(), metrics })
    }
}

impl Access {
    /// Listens, and says where; loudly, where everyone may come from everywhere.
    pub async fn bind(&self) -> Result<Sockets> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let (service, address) = listen(self.address).await?;
        tracing::info!("listening on {scheme}://{address} (documentation under /docs)");
        if self.is_open_to_others(address.ip()) {
            tracing::warn!(
                "no API keys: whoever can reach {address} can use the service (hint: `--keys FILE`, or REWARDEN_API_KEY)"
            );
        }
        let metrics = match self.metrics {
            Some(address) => {
                let (metrics, address) = listen(address).await?;
                tracing::info!("metrics at {scheme}://{address}/metrics");
                Some(metrics)
            }
            None => None,
        };
        Ok(Sockets { service, metrics, tls: self.tls.clone() })
    }

    /// Whether any key has a role.
    pub fn has(&self, role: Role) -> bool {
        self.keys.have(role)
    }

    /// Whether other machines may come in without a key.
    fn is_open_to_others(&self, host: IpAddr) -> bool {
        self.keys.is_empty() && !host.to_canonical().is_loopback()
    }

    /// Puts keys and origins into the service's settings.
    pub fn config(self, config: Config) -> Config {
        Config { keys: self.keys, origins: self.origins, hosts: self.hosts, ..config }
    }
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind(address).await.map_err(Error::io(address.to_string()))?;
    let address = listener.local_addr().map_err(Error::io(address.to_string()))?;
    Ok((listener, address))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use clap::Parser;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Line {
        #[command(flatten)]
        access: AccessArgs,
    }

    fn parse(flags: &[&str]) -> Result<AccessArgs, String> {
        let line = Line::try_parse_from(["rewarden"].iter().chain(flags));
        line.map(|line| line.access).map_err(|error| error.to_string())
    }

    fn read(flags: &[&str]) -> Result<Access, String> {
        parse(flags)?.read().map_err(|error| error.to_string())
    }

    #[test]
    fn flags_that_need_each_other_say_so() {
        for (given, missing) in [
            (["--tls-certificate", "x"], "--tls-key"),
            (["--tls-key", "x"], "--tls-certificate"),
            (["--metrics-host", "::1"], "--metrics-port"),
        ] {
            assert!(parse(&given).unwrap_err().contains(missing), "{given:?}");
        }
        assert!(parse(&["--cors-origin", "example.com"]).unwrap_err().contains("expected `scheme://host"));
    }

    #[test]
    fn a_key_of_the_command_line_joins_those_of_the_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.jsonl");
        let file = path.to_str().unwrap();
        fs::write(&path, r#"{"name":"root","key":"of-the-file","roles":["admin"]}"#).unwrap();
        let keys = read(&["--keys", file, "--api-key", "hidden"]).unwrap().keys;
        let of = |secret: &str| keys.find(secret.as_bytes()).map(Key::name);
        assert_eq!([of("of-the-file"), of("hidden"), of("other")], [Some("root"), Some(NAME), None]);
        assert!(!keys.find(b"hidden").unwrap().has(Role::Metrics));
        assert!(read(&[]).unwrap().keys.is_empty());

        let debug = format!("{:?}", parse(&["--api-key", "hidden"]).unwrap());
        assert!(!debug.contains("hidden"), "{debug}");
        for (secret, message) in
            [("", "empty"), ("hidden hidden", "visible"), ("sha256:hidden", "64 hexadecimal")]
        {
            let error = read(&["--api-key", secret]).err().unwrap();
            assert!(error.starts_with("--api-key: ") && error.contains(message), "{error}");
            assert!(!error.contains("hidden"), "{error}");
        }
        let error = read(&["--keys", file, "--api-key", "of-the-file"]).err().unwrap();
        assert_eq!(error, "--api-key: key: the same as that of `root`");
    }

    #[test]
    fn it_is_said_when_other_machines_may_come_in_without_a_key() {
        let (open, closed) = (read(&[]).unwrap(), read(&["--api-key", "secret"]).unwrap());
        let own = ["127.0.0.1", "127.3.2.1", "::1", "::ffff:127.0.0.1"].map(|host| (host, false));
        let other = ["0.0.0.0", "::", "10.0.0.1"].map(|host| (host, true));
        for (host, others) in own.into_iter().chain(other) {
            let host = host.parse().unwrap();
            assert_eq!(open.is_open_to_others(host), others, "{host}");
            assert!(!closed.is_open_to_others(host), "{host}");
        }
    }

    #[tokio::test]
    async fn metrics_are_on_the_same_host_unless_they_have_another() {
        let bound = async |flags: &[&str]| {
            let sockets = read(flags).unwrap().bind().await.unwrap();
            let metrics = sockets.metrics.map(|listener| listener.local_addr().unwrap().ip());
            (sockets.service.local_addr().unwrap().ip(), metrics)
        };
        let [one, other] = ["127.0.0.1", "127.0.0.2"].map(|host| host.parse::<IpAddr>().unwrap());
        assert_eq!(bound(&["--port", "0"]).await, (one, None));
        let apart = ["--port", "0", "--host", "127.0.0.2", "--metrics-port", "0"];
        assert_eq!(bound(&apart).await, (other, Some(other)));
        assert_eq!(bound(&[&apart[..], &["--metrics-host", "127.0.0.1"]].concat()).await, (other, Some(one)));
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = read(&["--port", &address.port().to_string()]).unwrap().bind().await.err().unwrap();
        assert!(error.to_string().starts_with(&address.to_string()), "{error}");
    }
}
