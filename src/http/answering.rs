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

use super::App;
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

impl App {
    /// Finds a model by name, or the default one, for the request that is being answered.
    pub fn model(&self, name: Option<&str>) -> Result<Arc<Generation>> {
        let model = self.engine().registry().find(name)?;
        by(&model);
        Ok(model)
    }
}
