//! The catalog's promises: plans that are exact or refused, manifests that are whole or refused.

mod plan;
mod support;
