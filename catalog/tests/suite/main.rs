//! The catalog's promises: plans that are exact or refused, manifests and catalogs that are whole or refused.

mod catalog;
mod kept;
mod manifests;
mod plan;
mod plan_damage;
mod refusals;
mod samples;
mod scale;
mod support;
mod window;
