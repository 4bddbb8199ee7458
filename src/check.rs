//! `nodescope check`: is the configuration right, and do broker and store answer as they must.

use nodescope_service::topic;
use nodescope_store::Store;
use object_store::{ObjectStoreExt, PutMode, PutOptions, path::Path};

use crate::settings::{AllSettings, load};
use crate::up::wrong_rules;
use crate::{ConfigArgs, block_on, chain, say, schedule};

/// Examines configuration and connections, and starts nothing.
///
/// All mistakes of the configuration are told at once, those of rules too. Then the broker is asked for the topic, and the store whether it
/// keeps what it is given and refuses to overwrite it, which is what each row's being there once rests on.
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The store: a folder, or s3://bucket/prefix.
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Kafka's addresses, with commas between them.
    #[arg(long, value_name = "HOST:PORT")]
    brokers: Option<String>,
}

/// Runs the command.
pub(crate) fn main(args: &CheckArgs) -> Result<(), String> {
    let mut settings = load(args.config.config.as_deref());
    settings.flag("store.url", args.store.as_ref());
    settings.flag("kafka.brokers", args.brokers.as_ref());
    let settings = AllSettings::read(settings)?;
    let tables = settings.common.catalogue.tables().filter(|table| table.derived.is_none()).count();
    say(&format!("configuration  right; {tables} tables, and minutes and hours of those that move"));
    let mut wrong = 0;
    let rules = block_on(schedule::examine(&settings.schedule, &settings.query, settings.common.catalogue.clone()));
    match rules {
        Ok(rules) => say(&format!("rules          right; {rules} of them")),
        Err(mistakes) => {
            wrong += 1;
            say(&wrong_rules(&mistakes));
        }
    }
    let kafka = settings.collector.kafka.clone();
    match topic::partitions(&kafka) {
        Ok(Some(partitions)) => {
            say(&format!(
                "kafka          {} answers; topic {} has {} partitions",
                kafka.brokers,
                kafka.topic,
                partitions.len()
            ));
        }
        Ok(None) => say(&format!(
            "kafka          {} answers; topic {} is not there yet and will be created with {} partitions",
            kafka.brokers, kafka.topic, kafka.partitions
        )),
        Err(error) => {
            wrong += 1;
            say(&format!("kafka          {}", chain(&error)));
        }
    }
    let examined = settings.common.open_store().and_then(|store| {
        let name = store.name().to_owned();
        block_on(examine(store)).map(|()| name)
    });
    match examined {
        Ok(name) => say(&format!("store          {name} keeps what it is given, and does not overwrite it")),
        Err(error) => {
            wrong += 1;
            say(&format!("store          {error}"));
        }
    }
    if wrong == 0 { Ok(()) } else { Err(format!("{wrong} of 3 are not as they must be")) }
}

/// Writes an object, tries to overwrite it, reads it back and deletes it.
async fn examine(store: Store) -> Result<(), String> {
    let objects = store.objects();
    let path = Path::from(format!("check/{}", uuid::Uuid::new_v4()));
    let create = || PutOptions::from(PutMode::Create);
    objects.put_opts(&path, "first".into(), create()).await.map_err(|e| format!("cannot be written: {e}"))?;
    let again = objects.put_opts(&path, "second".into(), create()).await;
    let read = async { objects.get(&path).await?.bytes().await }.await.map_err(|e| format!("cannot be read: {e}"));
    let deleted = objects.delete(&path).await.map_err(|e| format!("cannot delete: {e}"));
    match again {
        Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {}
        Ok(_) => return Err("overwrites what is there: it does not support conditional writes".to_owned()),
        Err(error) => return Err(format!("does not answer a conditional write as it must: {error}")),
    }
    if read?.as_ref() != b"first" {
        return Err("gives back something else than it was given".to_owned());
    }
    deleted
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use nodescope_model::catalogue::Catalogue;

    use super::*;

    #[tokio::test]
    async fn a_store_that_keeps_its_word_passes() {
        let folder = tempfile::tempdir().unwrap();
        let location: nodescope_store::location::Location = folder.path().display().to_string().parse().unwrap();
        examine(location.open(Arc::new(Catalogue::built_in())).unwrap()).await.unwrap();
    }
}
