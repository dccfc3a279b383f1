//! The engine's images in the interface's words.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use corten_engine::image::{ImageConfig, Whole};
use corten_engine::{Engine, Error};
use corten_spec::{Digest, Reference};
use serde_json::json;

use super::ImageSettings;
use crate::proto::{Image, ImageSpec, Int64Value};

/// Who images run as, by id: configs never change, and kubelet asks for all of them every few seconds.
#[derive(Debug, Default)]
pub(super) struct Users(Mutex<HashMap<Digest, String>>);

impl Users {
    /// `User` of the image's config. One that cannot be read is nobody's business here: a container of it fails and says why.
    fn of(&self, engine: &Engine, whole: &Whole) -> String {
        if let Some(user) = self.lock().get(&whole.id) {
            return user.clone();
        }
        let bytes = engine.image_config_bytes(&whole.record);
        let config = bytes.and_then(|b| ImageConfig::parse(&whole.record.reference, &b));
        match config {
            Ok(config) => {
                self.lock().insert(whole.id.clone(), config.user.clone());
                config.user
            }
            Err(error) => {
                tracing::warn!(image = %whole.id, error = corten_spec::chain(&error), "its config cannot be read");
                String::new()
            }
        }
    }

    /// Forgets images that are not among these, which are all.
    pub fn keep(&self, all: &[Whole]) {
        let mut known = self.lock();
        if known.len() > all.len() {
            known.retain(|id, _| all.iter().any(|w| w.id == *id));
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn image(
    engine: &Engine,
    settings: &ImageSettings,
    users: &Users,
    whole: &Whole,
) -> Image {
    let (uid, username) = user(&users.of(engine, whole));
    Image {
        id: whole.id.to_string(),
        repo_tags: whole.tags.clone(),
        repo_digests: whole.digests.clone(),
        size: whole.size,
        uid: uid.map(|value| Int64Value { value }),
        username,
        spec: Some(ImageSpec {
            image: whole.id.to_string(),
            ..ImageSpec::default()
        }),
        pinned: is_pinned(&settings.pinned, whole),
    }
}

/// `USER[:GROUP]` of a config: a number is a uid, all else a name.
fn user(text: &str) -> (Option<i64>, String) {
    let user = text.split(':').next().unwrap_or_default();
    match user.parse::<u32>() {
        Ok(uid) => (Some(uid.into()), String::new()),
        Err(_) => (None, user.to_owned()),
    }
}

fn is_pinned(pinned: &[Reference], whole: &Whole) -> bool {
    pinned.iter().any(|reference| {
        let name = reference.untagged().to_string();
        whole.tags.contains(&name) || whole.digests.contains(&name)
    })
}

/// What `crictl inspecti` shows besides.
pub(super) fn info(engine: &Engine, whole: &Whole) -> Result<BTreeMap<String, String>, Error> {
    let info = json!({
        "imageSpec": engine.config_of_image(&whole.record)?,
        "target": {
            "digest": whole.record.target.digest,
            "mediaType": whole.record.target.media_type,
            "size": whole.record.target.size,
        },
        "manifest": whole.record.manifest,
        "layers": engine.layer_sizes(&whole.record)?,
        "pulledAt": whole.record.pulled_at,
    });
    Ok(BTreeMap::from([("info".into(), info.to_string())]))
}

#[cfg(test)]
mod tests {
    use super::user;

    #[test]
    fn users_are_numbers_or_names() {
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(user("1002"), (Some(1002), String::new()));
        assert_eq!(user("1003:1004"), (Some(1003), String::new()));
        assert_eq!(user("www-data"), (None, "www-data".into()));
        assert_eq!(user("www-data:1004"), (None, "www-data".into()));
        assert_eq!(user("-1"), (None, "-1".into()));
    }
}
