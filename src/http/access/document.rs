//! What the OpenAPI document says of access, read off the same table as the guard's.

use utoipa::openapi::{
    Content, OpenApi, Ref, Response,
    path::{Operation, PathItem},
    schema::Components,
    security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
};

use super::{KEY_HEADERS, needed};

/// Name of the scheme that a key follows the word `Bearer`.
const BEARER: &str = "bearer";

/// Writes down the ways to show a key, and the role that every operation needs.
pub fn guarded(mut api: OpenApi) -> OpenApi {
    schemes(api.components.get_or_insert_default());
    for (path, item) in &mut api.paths.paths {
        let Some(role) = needed(path) else { continue };
        for operation in operations(item) {
            let required = |scheme: &str| SecurityRequirement::new(scheme, [role.name()]);
            let schemes = [BEARER].into_iter().chain(KEY_HEADERS).map(required);
            // The first, empty, is for a service without keys.
            operation.security = Some([SecurityRequirement::default()].into_iter().chain(schemes).collect());
            refused(operation, "401", "no key, or one that is not known".to_owned());
            refused(operation, "403", format!("the key does not have the role `{}`", role.name()));
        }
    }
    api
}

fn schemes(components: &mut Components) {
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("an API key")).build();
    components.add_security_scheme(BEARER, SecurityScheme::Http(bearer));
    for name in KEY_HEADERS {
        let header = ApiKeyValue::with_description(name, "an API key");
        components.add_security_scheme(name, SecurityScheme::ApiKey(ApiKey::Header(header)));
    }
}

/// Adds a refusal, unless the operation describes its own.
pub fn refused(operation: &mut Operation, status: &str, description: String) {
    let body = Content::new(Some(Ref::from_schema_name("ErrorBody")));
    let refusal = || {
        let mut response = Response::new(description);
        response.content.insert("application/json".into(), body.into());
        response.into()
    };
    operation.responses.responses.entry(status.to_owned()).or_insert_with(refusal);
}

/// Every operation of a path.
pub fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem { get, put, post, delete, options, head, patch, trace, query, .. } = item;
    let named = [get, put, post, delete, options, head, patch, trace, query];
    named.into_iter().flatten().chain(item.additional_operations.values_mut())
}
