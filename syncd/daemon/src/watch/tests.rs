//! The watcher on real inotify in a directory of its own. Nothing waits for time: each look ends with a barrier.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;

#[tokio::test]
async fn every_kind_of_change_is_told_by_its_path_and_reading_is_not() {
    let mut home = Home::new().await;
    fs::write(home.path("a"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&["a"]));
    fs::set_permissions(home.path("a"), fs::Permissions::from_mode(0o600)).expect("set");
    assert_eq!(home.stirred().await, paths(&["a"]));
    fs::rename(home.path("a"), home.path("b")).expect("moved");
    assert_eq!(home.stirred().await, paths(&["a", "b"]));
    fs::read(home.path("b")).expect("readable");
    fs::read_dir(home.path("")).expect("readable").for_each(drop);
    assert_eq!(home.stirred().await, paths(&[]));
    fs::remove_file(home.path("b")).expect("removed");
    assert_eq!(home.stirred().await, paths(&["b"]));
    fs::create_dir(home.path("d")).expect("made");
    symlink("d", home.path("l")).expect("made");
    assert_eq!(home.stirred().await, paths(&["d", "l"]));
}

#[tokio::test]
async fn only_directories_that_were_named_are_watched_and_each_is_told_once() {
    let mut home = Home::new().await;
    fs::create_dir_all(home.path("d/e")).expect("made");
    home.stirred().await;
    assert_eq!(home.watch(&["d"]).await, paths(&["d"]));
    assert_eq!(home.watch(&["d", "gone"]).await, paths(&[]));
    fs::write(home.path("d/e/unseen"), "x").expect("written");
    fs::write(home.path("d/seen"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&["d/seen"]));
}

#[tokio::test]
async fn what_happens_after_a_directory_was_moved_is_told_by_its_later_path() {
    let mut home = Home::new().await;
    fs::create_dir_all(home.path("old/sub")).expect("made");
    home.watch(&["old", "old/sub"]).await;
    fs::rename(home.path("old"), home.path("new")).expect("moved");
    assert!(home.stirred().await.is_superset(&paths(&["old", "new"])));
    assert_eq!(home.watch(&["new", "new/sub"]).await, paths(&[]), "all was told by the one path or the other");
    fs::write(home.path("new/file"), "x").expect("written");
    fs::write(home.path("new/sub/file"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&["new/file", "new/sub/file"]));
}

#[tokio::test]
async fn two_directories_that_swap_their_names_are_both_followed() {
    let mut home = Home::new().await;
    for dir in ["a", "b"] {
        fs::create_dir(home.path(dir)).expect("made");
    }
    home.watch(&["a", "b"]).await;
    for (from, to) in [("a", "t"), ("b", "a"), ("t", "b")] {
        fs::rename(home.path(from), home.path(to)).expect("moved");
    }
    home.stirred().await;
    assert_eq!(home.again, paths(&[]), "the engine has to know first that they were swapped");
    home.watch(&["a", "b"]).await;
    fs::write(home.path("a/in-a"), "x").expect("written");
    fs::write(home.path("b/in-b"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&["a/in-a", "b/in-b"]));
}

#[tokio::test]
async fn a_directory_that_was_moved_and_came_back_is_watched_though_nobody_names_it_again() {
    let mut home = Home::new().await;
    fs::create_dir_all(home.path("a/sub")).expect("made");
    home.watch(&["a", "a/sub"]).await;
    fs::rename(home.path("a"), home.path("b")).expect("moved");
    home.stirred().await;
    fs::rename(home.path("b"), home.path("a")).expect("moved back");
    home.stirred().await;
    assert_eq!(home.again, paths(&["a", "a/sub"]), "they had no watch for a while");
    fs::write(home.path("a/file"), "x").expect("written");
    fs::write(home.path("a/sub/file"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&["a/file", "a/sub/file"]));
}

#[tokio::test]
async fn a_directory_that_left_the_home_and_came_back_is_watched_though_nobody_names_it_again() {
    let mut home = Home::new().await;
    fs::create_dir_all(home.path("a/sub")).expect("made");
    home.watch(&["a", "a/sub"]).await;
    let outside = home.dir.path().join("outside");
    fs::rename(home.path("a"), &outside).expect("moved");
    home.stirred().await;
    fs::write(outside.join("sub/elsewhere"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&[]));
    fs::rename(&outside, home.path("a")).expect("moved back");
    home.stirred().await;
    assert_eq!(home.again, paths(&["a", "a/sub"]));
    fs::write(home.path("a/sub/file"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&["a/sub/file"]));
}

#[tokio::test]
async fn a_directory_whose_path_is_longer_than_the_system_takes_is_watched() {
    let mut home = Home::new().await;
    let part = "d".repeat(250);
    let mut dirs = Vec::new();
    let mut at: OwnedFd = fs::File::open(home.path("")).expect("there").into();
    for depth in 1..=20 {
        rustix::fs::mkdirat(&at, &part, Mode::RWXU).expect("made");
        at = rustix::fs::openat(&at, &part, OFlags::DIRECTORY, Mode::empty()).expect("there");
        dirs.push(vec![part.as_str(); depth].join("/"));
    }
    home.stirred().await;
    let names: Vec<&str> = dirs.iter().map(String::as_str).collect();
    assert_eq!(home.watch(&names).await.len(), 20);
    rustix::fs::openat(&at, "file", OFlags::CREATE, Mode::RUSR).expect("made");
    assert_eq!(home.stirred().await, paths(&[&format!("{}/file", dirs[19])]));
}

#[tokio::test]
async fn a_directory_made_anew_under_a_known_name_is_watched_when_it_is_named() {
    let mut home = Home::new().await;
    fs::create_dir(home.path("d")).expect("made");
    home.watch(&["d"]).await;
    fs::remove_dir(home.path("d")).expect("removed");
    fs::create_dir(home.path("d")).expect("made");
    home.stirred().await;
    assert_eq!(home.watch(&["d"]).await, paths(&["d"]));
    fs::write(home.path("d/file"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&["d/file"]));
}

#[tokio::test]
async fn our_own_directories_and_what_symlinks_lead_to_are_not_watched() {
    let mut home = Home::new().await;
    let outside = tempfile::tempdir().expect("a directory");
    symlink(outside.path(), home.path("door")).expect("made");
    fs::create_dir_all(home.path("own/deep")).expect("made");
    home.stirred().await;
    assert_eq!(home.watch(&["own", "own/deep", "door"]).await, paths(&[]));
    assert!(home.watcher.beyond().is_empty());
    fs::write(home.path("own/file"), "x").expect("written");
    fs::write(outside.path().join("file"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&[]));
}

#[tokio::test]
async fn a_barrier_is_through_only_when_all_before_it_was_taken() {
    let mut home = Home::new().await;
    for round in 0..50 {
        fs::write(home.path(&format!("file{round}")), "x").expect("written");
        let (watcher, stirred) = (home.watcher.clone(), &mut home.stirred);
        let barrier = watcher.cookie();
        tokio::pin!(barrier);
        let mut taken = false;
        loop {
            tokio::select! {
                biased;
                () = &mut barrier => break,
                Some(told) = stirred.recv() => {
                    let Stirred::Paths(found) = told else { panic!("nothing was too much") };
                    taken |= found.contains(&format!("file{round}").into_bytes());
                }
            }
        }
        assert!(taken, "round {round}: the barrier overtook what it stands behind");
    }
}

#[tokio::test]
async fn a_directory_named_by_its_later_path_before_the_move_is_told_keeps_its_watch() {
    let mut home = Home::new().await;
    for round in 0..30 {
        let (a, b) = (format!("a{round}"), format!("b{round}"));
        fs::create_dir(home.path(&a)).expect("made");
        home.watch(&[&a]).await;
        fs::rename(home.path(&a), home.path(&b)).expect("moved");
        home.watch(&[&b]).await;
        home.stirred().await;
        fs::write(home.path(&format!("{b}/file")), "x").expect("written");
        assert_eq!(home.stirred().await, paths(&[&format!("{b}/file")]), "round {round}");
    }
}

#[tokio::test]
async fn directories_over_the_budget_are_told_and_watched_when_there_is_room() {
    let home = Home::within(2).await;
    for dir in ["a", "b", "c"] {
        fs::create_dir(home.path(dir)).expect("made");
    }
    assert_eq!(home.watch(&["a", "b", "c"]).await, paths(&["a"]));
    assert_eq!(home.watcher.beyond(), ["b", "c"].map(|dir| dir.as_bytes().to_vec()));
    let [problem] = &home.watcher.problems()[..] else { panic!("one problem") };
    assert!(problem.what.contains("2 directories") && problem.hint.contains("fs.inotify.max_user_watches="));
    let mut home = home;
    fs::remove_dir(home.path("a")).expect("removed");
    fs::remove_dir(home.path("b")).expect("removed");
    home.stirred().await;
    assert_eq!(home.watch(&["b", "c"]).await, paths(&["c"]));
    assert_eq!(home.watcher.problems(), []);
}

#[tokio::test]
async fn a_barrier_that_cannot_be_set_up_has_everything_looked_at() {
    let mut home = Home::new().await;
    fs::remove_dir(home.path("own/state/cookies")).expect("removed");
    assert_eq!(home.told().await, [Stirred::Overflow]);
}

#[tokio::test]
async fn barriers_end_with_whoever_takes_what_stirs_and_that_ends_with_the_watcher() {
    let Home { dir, watcher, stirred, .. } = Home::new().await;
    drop(stirred);
    watcher.cookie().await;
    drop((watcher, dir));
    let Home { watcher, mut stirred, .. } = Home::new().await;
    drop(watcher);
    while stirred.recv().await.is_some() {}
}

#[tokio::test]
async fn more_than_can_wait_becomes_an_overflow_and_what_comes_later_is_told_as_ever() {
    let mut home = Home::new().await;
    let many = (0..=GATHERED).map(|number| number.to_string().into_bytes()).collect::<BTreeSet<_>>();
    home.watcher.0.gathered.change(|gathered| gathered.add(many, Vec::new()));
    fs::write(home.path("lost with the rest"), "x").expect("written");
    assert_eq!(home.told().await, [Stirred::Overflow]);
    fs::write(home.path("later"), "x").expect("written");
    assert_eq!(home.stirred().await, paths(&["later"]));
}

/// A watched home, gone when dropped.
struct Home {
    dir: tempfile::TempDir,
    watcher: Watcher,
    stirred: Stirs,
    /// Directories that were told to be looked at, as they had no watch for a while.
    again: BTreeSet<RelPath>,
}

impl Home {
    async fn new() -> Self {
        Self::within(usize::MAX).await
    }

    async fn within(budget: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (home, state) = (dir.path().join("home"), dir.path().join("home/own/state"));
        fs::create_dir_all(&state).expect("made");
        let (watcher, stirred) =
            Watcher::start_within(&home, &state, vec![home.join("own")], Some(budget)).expect("inotify");
        let made = Self { dir, watcher, stirred, again: BTreeSet::new() };
        assert_eq!(made.watch(&[""]).await, paths(&[""]));
        made
    }

    fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join("home").join(below)
    }

    async fn watch(&self, dirs: &[&str]) -> BTreeSet<RelPath> {
        self.watcher.watch(dirs.iter().map(|dir| dir.as_bytes().to_vec()).collect()).await.into_iter().collect()
    }

    /// All that was told up to this moment.
    async fn told(&mut self) -> Vec<Stirred> {
        let watcher = self.watcher.clone();
        let barrier = watcher.cookie();
        tokio::pin!(barrier);
        let mut told = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = &mut barrier => break,
                Some(stirred) = self.stirred.recv() => told.push(stirred),
            }
        }
        told
    }

    /// The paths that stirred up to this moment; nothing was lost.
    async fn stirred(&mut self) -> BTreeSet<RelPath> {
        let mut found = BTreeSet::new();
        for stirred in self.told().await {
            match stirred {
                Stirred::Paths(paths) => found.extend(paths),
                Stirred::Watched(dirs) => self.again.extend(dirs),
                Stirred::Overflow => panic!("nothing was too much"),
            }
        }
        found
    }
}

fn paths(paths: &[&str]) -> BTreeSet<RelPath> {
    paths.iter().map(|path| path.as_bytes().to_vec()).collect()
}
