//! Which model answers: `x-rewarden-model` has the fingerprint of the generation that a request was given.
//!
//! Handlers find their model by [`App::model`], wherever they are; the layer around them names it in the answer.

use std::{cell::OnceCell, sync::Arc};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::Response,
};

use utoipa::openapi::{HeaderBuilder, ObjectBuilder, OpenApi, RefOr, Type};

use super::{App, access::document::operations};
use crate::{Result, engine::generation::Generation};

/// The header with the fingerprint, also of an error that came after the model was found.
pub const MODEL: HeaderName = HeaderName::from_static("x-rewarden-model");

tokio::task_local! {
    static ANSWERS: OnceCell<HeaderValue>;
}

/// Names the model in the answer.
pub async fn name(request: Request, next: Next) -> Response {
    let named = async {
        let mut response = next.run(request).await;
        if let Some(fingerprint) = ANSWERS.with(|answers| answers.get().cloned()) {
            response.headers_mut().insert(MODEL, fingerprint);
        }
        response
    };
    ANSWERS.scope(OnceCell::new(), named).await
}

/// Says that this model answers the request.
pub fn by(model: &Generation) {
    let Ok(fingerprint) = HeaderValue::try_from(&model.fingerprint) else { return };
    // Nobody hears it where there is no layer, nor of a second model.
    drop(ANSWERS.try_with(|answers| answers.set(fingerprint)));
}

/// Writes down, of every operation that scores, the header of its answers.
pub fn document(mut api: OpenApi) -> OpenApi {
    let scoring = api.paths.paths.values_mut().flat_map(operations);
    for operation in scoring.filter(|operation| operation.responses.responses.contains_key("504")) {
        let Some(RefOr::T(answer)) = operation.responses.responses.get_mut("200") else { continue };
        let text = ObjectBuilder::new().schema_type(Type::String);
        let header = HeaderBuilder::new()
            .schema(Some(text))
            .description(Some("fingerprint of the model that answers"));
        answer.headers.insert(MODEL.to_string(), header.build().into());
    }
    api
}

impl App {
    /// Finds a model by name, or the default one, for the request that is being answered.
    pub fn model(&self, name: Option<&str>) -> Result<Arc<Generation>> {
        let model = self.engine().registry().find(name)?;
        by(&model);
        Ok(model)
    }
}
