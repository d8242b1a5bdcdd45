//! The page at `/`: its files, and the headers that keep it to itself.

use std::collections::BTreeSet;

use reqwest::Response;
use serde_json::Value;

use crate::helpers::Service;

/// Names after `start` in quotes: of files that `text` asks for.
fn named<'a>(text: &'a str, start: &str) -> impl Iterator<Item = String> + use<'a> {
    let pieces: Vec<&str> = text.split(start).skip(1).collect();
    pieces.into_iter().filter_map(|rest| rest.split('"').next()).map(str::to_owned)
}

/// Every file that the page asks for, by itself or through one of its files.
async fn files(service: &Service) -> BTreeSet<String> {
    let index = service.get("/").await.text().await.unwrap();
    let mut waiting: Vec<String> = named(&index, "=\"page/").collect();
    let mut found = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        let text = service.get(&format!("/page/{name}")).await.text().await.unwrap();
        if found.insert(name) {
            waiting.extend(named(&text, "from \"./"));
        }
    }
    found
}

fn header<'a>(response: &'a Response, name: &str) -> &'a str {
    response.headers().get(name).map_or("", |value| value.to_str().unwrap())
}

#[tokio::test]
async fn every_file_comes_with_its_type_and_a_strict_policy() {
    let service = Service::ready().await;
    let files = files(&service).await;
    assert!(files.contains("page.css") && files.contains("text.js") && files.len() == 10, "{files:?}");
    for path in files.iter().map(|name| format!("/page/{name}")).chain(["/".to_owned()]) {
        let response = service.get(&path).await;
        assert_eq!(response.status(), 200, "{path}");
        let kind = match path.rsplit('.').next().unwrap() {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            "svg" => "image/svg+xml",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!(header(&response, "content-type"), kind, "{path}");
        assert_eq!(header(&response, "x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header(&response, "cache-control"), "no-cache", "{path}");
        let policy = header(&response, "content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self';"), "{path}: {policy}");
        assert!(
            !policy.contains("unsafe") && !policy.contains(':') && !policy.contains('*'),
            "{path}: {policy}"
        );
    }
}

#[tokio::test]
async fn no_file_names_another_host_or_has_code_in_its_markup() {
    let service = Service::ready().await;
    for path in files(&service).await.iter().map(|name| format!("/page/{name}")).chain(["/".to_owned()]) {
        let text = service.get(&path).await.text().await.unwrap();
        let text = text.replace("xmlns=\"http://www.w3.org/2000/svg\"", "");
        for elsewhere in
            ["://", "=\"//", "'//", "(//", "@import", "style=\"", "<style", " onclick", "javascript:"]
        {
            assert!(!text.contains(elsewhere), "{path}: {elsewhere}");
        }
    }
}

#[tokio::test]
async fn a_copy_that_is_still_good_is_not_sent_again() {
    let service = Service::ready().await;
    let (page, script) = (service.get("/").await, service.get("/page/page.js").await);
    let (page, script) = (header(&page, "etag").to_owned(), header(&script, "etag").to_owned());
    assert_ne!(page, script);
    for (known, status) in
        [(page.clone(), 304), (format!("\"x\", W/{page}"), 304), (script, 200), ("x".into(), 200)]
    {
        let request =
            service.client.get(format!("http://{}/", service.address)).header("if-none-match", &known);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), status, "{known}");
        assert_eq!(header(&response, "etag"), page);
        assert_eq!(response.text().await.unwrap().is_empty(), status == 304);
    }
}

#[tokio::test]
async fn other_files_are_not_there() {
    let service = Service::ready().await;
    for path in
        ["/page/", "/page/index.html", "/page/../page.rs", "/page/%2e%2e%2fpage.rs", "/page/page.css/"]
    {
        let response = service.get(path).await;
        assert_eq!(response.status(), 404, "{path}");
        assert_eq!(response.json::<Value>().await.unwrap()["error"]["code"], "not_found", "{path}");
    }
}
