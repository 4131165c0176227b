//! The engine on the real disk: what is mounted over a synced directory deletes nothing.
//!
//! Runs itself again where it may mount (`unshare`), so that it needs no privileges.

use std::path::Path;
use std::process::Command;

use hearth_schemas::ids::{DeviceId, NodeId};
use hearth_schemas::item::{Flag, Name};
use syncd::disk::RealDisk;
use syncd_core::engine::{Engine, Event};
use syncd_core::select::Everything;
use syncd_core::state::{Now, State};
use syncd_core::store::{MemoryStore, Store};

const INSIDE: &str = "HEARTH_TEST_INSIDE";

#[test]
fn what_is_mounted_over_a_synced_directory_deletes_nothing() {
    if std::env::var_os(INSIDE).is_none() {
        let own = std::env::current_exe().expect("a running program has a path");
        let mut inside = Command::new("unshare");
        inside.args(["--user", "--map-root-user", "--mount"]).arg(own).env(INSIDE, "1");
        let output = inside.output().expect("util-linux is installed");
        let told = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&told));
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let [home, data, state] = ["home", "data", "state"].map(|name| dir.path().join(name));
    for path in [&home, &data, &state, &home.join("music")] {
        std::fs::create_dir(path).expect("made");
    }
    std::fs::write(home.join("music/song"), "la").expect("written");
    let disk = RealDisk::open(&home, &data, &state, [7; 32]).expect("opens");
    let mut world = World::new(disk);
    world.settle();
    assert!(world.song_lives(), "the song is known");

    mount(&["-t", "tmpfs", "none"], &home.join("music"));
    for event in [Event::Overflowed, Event::Stirred(vec![b"music".to_vec(), b"music/song".to_vec()])] {
        world.tell(event);
        world.settle();
        assert!(world.song_lives(), "out of sight is not deleted");
    }

    assert!(Command::new("umount").arg(home.join("music")).status().expect("umount runs").success());
    for event in [Event::Overflowed, Event::Stirred(vec![b"music/song".to_vec()])] {
        world.tell(event);
        world.settle();
    }
    assert!(world.song_lives(), "in sight again");
    let wrong: Vec<_> = world.engine.problems().collect();
    assert!(wrong.is_empty(), "and nothing is wrong any more: {wrong:?}");
}

fn mount(how: &[&str], at: &Path) {
    assert!(Command::new("mount").args(how).arg(at).status().expect("mount runs").success());
}

struct World {
    engine: Engine<MemoryStore>,
    disk: RealDisk,
    wall_ms: u64,
    chance: u64,
}

impl World {
    fn new(disk: RealDisk) -> Self {
        let (mut chance, wall_ms) = (1, 1_700_000_000_000);
        let mut random = || next(&mut chance);
        let mut now = Now { wall_ms, random: &mut random };
        let state = State::open(MemoryStore::default(), DeviceId([1; 32]), "pc", true, &mut now).expect("opens");
        Self { engine: Engine::new(state, Box::new(Everything)), disk, wall_ms, chance }
    }

    fn tell(&mut self, event: Event) {
        let mut random = || next(&mut self.chance);
        let mut now = Now { wall_ms: self.wall_ms, random: &mut random };
        self.engine.handle(event, &mut now).expect("the index is in memory");
    }

    fn settle(&mut self) {
        for _ in 0..100 {
            self.wall_ms += 1000;
            let mut random = || next(&mut self.chance);
            let mut now = Now { wall_ms: self.wall_ms, random: &mut random };
            self.engine.work(&mut self.disk, &mut now).expect("the index is in memory");
            while self.engine.poll_effect().is_some() {}
        }
    }

    fn song_lives(&self) -> bool {
        let store = &self.engine.state.store;
        let rows = store.rows_after(0, 100).expect("in memory");
        let song = Name::new("song").expect("valid");
        rows.iter().any(|(_, row)| {
            row.place
                .values()
                .any(|place| place.name == song && place.flag == Flag::Live && place.parent != NodeId::ROOT)
                && row.content.values().any(|content| content.flag == Flag::Live)
        })
    }
}

fn next(chance: &mut u64) -> u64 {
    *chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *chance
}
