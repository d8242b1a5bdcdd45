//! Which names a request may call the service by, where whoever can reach it may use it.
//!
//! A page of the web can have its own name resolved to this machine, and then talk to a service that listens here alone and asks for
//! no key (DNS rebinding). Its requests carry that name. So without keys, on an address of this machine alone, the host must be an
//! address or `localhost`, or one of the names that were allowed.

use std::{net::IpAddr, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, Uri, header::HOST, uri::Authority},
    middleware::Next,
    response::Response,
};

use super::{access, error::ApiError};

/// The names that were allowed.
pub type Hosts = Arc<[String]>;

/// Refuses a request for another host; probes are let through, since they tell nothing.
pub async fn check(State(allowed): State<Hosts>, request: Request, next: Next) -> Result<Response, ApiError> {
    let path = request.extensions().get().map_or(request.uri().path(), MatchedPath::as_str);
    match access::is_open(path) || is_own(request.headers(), request.uri(), &allowed) {
        true => Ok(next.run(request).await),
        false => Err(ApiError::foreign_host()),
    }
}

fn is_own(headers: &HeaderMap, uri: &Uri, allowed: &[String]) -> bool {
    let named =
        headers.get(HOST).map(|value| value.to_str().ok().and_then(|text| text.parse::<Authority>().ok()));
    let host = match (uri.authority(), named) {
        (Some(authority), _) => authority.host().to_owned(),
        (None, Some(Some(authority))) => authority.host().to_owned(),
        // No browser sends a request without a host.
        (None, None) => return true,
        (None, Some(None)) => return false,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is = |name: &str| host.eq_ignore_ascii_case(name);
    host.parse::<IpAddr>().is_ok() || is("localhost") || allowed.iter().any(|name| is(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_names_of_this_machine_are_its_own() {
        let allowed = ["rewarden.internal".to_owned()];
        let own = |host: &'static str| {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            is_own(&headers, &Uri::from_static("/v1/models"), &allowed)
        };
        for host in [
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]:8080",
            "10.1.2.3",
            "localhost",
            "LocalHost:1",
            "rewarden.internal:80",
        ] {
            assert!(own(host), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "a b",
        ] {
            assert!(!own(host), "{host}");
        }
        let absolute = Uri::from_static("http://evil.example/v1/models");
        assert!(!is_own(&HeaderMap::new(), &absolute, &allowed));
        assert!(is_own(&HeaderMap::new(), &Uri::from_static("/"), &allowed));
    }
}
