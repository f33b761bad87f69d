//! Images that the file asks for and the server does not keep: what is said of them. Start at
//! `Session::look_for_images`.

use super::{Session, full_name};
use crate::check;
use crate::config::UpdateDocument;
use crate::event::{Event, Namespace, Operation};

impl Session {
    /// A collection that came into being after the start keeps no images unless somebody says so, and images cannot be
    /// made up for later. Told once a collection and run.
    pub(super) fn look_for_images(
        &mut self,
        namespace: Namespace<'_>,
        operation: Operation,
        event: &Event<'_>,
    ) {
        let wants_after = self.settings.update_document == UpdateDocument::PostImage;
        let lacks_after = wants_after && operation == Operation::Update && event.after.is_none();
        let lacks_before =
            self.settings.pre_images && operation != Operation::Insert && event.before.is_none();
        if !lacks_after && !lacks_before {
            return;
        }
        let Some(collection) = self.collections.get_mut(namespace.raw.as_bytes()) else { return };
        if !std::mem::replace(&mut collection.lacks_images, true) {
            let [database, name] = [namespace.database, namespace.collection].map(String::from_utf8_lossy);
            let mend = check::keep_images(&database, &name);
            tracing::warn!(
                collection = %full_name(namespace),
                "a change has no image, though the file asks for it: the collection keeps none, or not long enough \
                 for this connector; have it keep them: {mend}"
            );
        }
    }
}
