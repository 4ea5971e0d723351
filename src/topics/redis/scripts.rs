//! The scripts that run in Redis. Each runs as a whole: nobody sees half of what it does.

use redis::{Cmd, cmd};

use super::connection::{Connection, Failure};

/// A script's source, with what all scripts share.
macro_rules! source {
    ($file:literal) => {
        concat!(include_str!("common.lua"), include_str!($file))
    };
}

/// The scripts as this connection's Redis knows them.
pub(super) struct Scripts {
    announce: String,
    attach: String,
    bury: String,
    load: String,
    presence: String,
    publish: String,
    touch: String,
}

impl Scripts {
    pub(super) fn load(redis: &mut Connection) -> Result<Self, Failure> {
        let mut known = |source: &str| redis.ask(cmd("SCRIPT").arg("LOAD").arg(source));
        Ok(Self {
            announce: known(source!("announce.lua"))?,
            attach: known(source!("attach.lua"))?,
            bury: known(source!("bury.lua"))?,
            load: known(source!("load.lua"))?,
            presence: known(source!("presence.lua"))?,
            publish: known(source!("publish.lua"))?,
            touch: known(source!("touch.lua"))?,
        })
    }

    pub(super) fn announce(&self) -> Cmd {
        call(&self.announce)
    }

    pub(super) fn bury(&self) -> Cmd {
        call(&self.bury)
    }

    pub(super) fn presence(&self) -> Cmd {
        call(&self.presence)
    }

    pub(super) fn attach(&self) -> Cmd {
        call(&self.attach)
    }

    pub(super) fn load_histories(&self) -> Cmd {
        call(&self.load)
    }

    pub(super) fn publish(&self) -> Cmd {
        call(&self.publish)
    }

    pub(super) fn touch(&self) -> Cmd {
        call(&self.touch)
    }
}

/// A call of a script, to which its arguments are still to be added.
fn call(script: &str) -> Cmd {
    let mut call = cmd("EVALSHA");
    call.arg(script).arg(0);
    call
}
