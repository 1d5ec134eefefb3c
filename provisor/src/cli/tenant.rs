//! `tenant` commands.

use provisor_wire::Tenant;
use provisor_wire::parts::Items;

use super::{Tenant as Command, view};
use crate::fail::Fail;
use crate::session::Session;

/// More pages than any installation has; a server that never ends its list must not hold us for ever.
const MAX_PAGES: usize = 1000;

/// Every tenant.
async fn all(session: &Session) -> Result<Vec<Tenant>, Fail> {
    let (mut items, mut cursor) = (Vec::new(), None);
    for _ in 0..MAX_PAGES {
        let page = session.client.tenants(cursor.as_deref()).await?;
        items.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(items)
}

/// Runs one.
pub(crate) async fn run(session: &Session, command: &Command) -> Result<(), Fail> {
    let (client, out) = (&session.client, session.out);
    match command {
        Command::List => {
            let list = Items { items: all(session).await? };
            out.value(&list, || view::tenants(&list.items))
        }
        Command::Get { id } => {
            let tenant = client.tenant(id).await?;
            out.value(&tenant, || view::tenants(std::slice::from_ref(&tenant)))
        }
        Command::Quota { id } => {
            let quota = client.quota(id).await?;
            out.value(&quota, || view::quota(&quota))
        }
        Command::Remove { id } => {
            client.delete_tenant(id, None).await?;
            out.remark(&format!("tenant {id} removed"));
            Ok(())
        }
    }
}
