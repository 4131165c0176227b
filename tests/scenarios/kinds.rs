//! Links, odd names, and things that become another kind of thing.

use std::collections::BTreeMap;

use hearth_tests::sim::World;
use hearth_tests::sim::disk::Act;
use hearth_tests::sim::world::Here;

#[test]
fn symlinks_travel_as_they_are_even_when_they_lead_nowhere() {
    let mut world = World::new(71);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.must(laptop, Act::Link("current".into(), "releases/7".into()));
    world.must(laptop, Act::Link("outside".into(), "/etc/hostname".into()));
    world.settle();
    world.assert_same_everywhere("current", "-> releases/7");
    world.must(desktop, Act::Link("current".into(), "releases/8".into()));
    world.settle();
    world.assert_same_everywhere("current", "-> releases/8");
}

#[test]
fn a_file_becomes_a_directory_becomes_a_link_becomes_a_file() {
    let mut world = World::new(72);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "thing", "a file");
    world.settle();
    world.remove(desktop, "thing");
    world.write(desktop, "thing/inside.txt", "in a directory");
    world.settle();
    world.assert_paths_everywhere(&["thing", "thing/inside.txt"]);
    world.remove(laptop, "thing");
    world.must(laptop, Act::Link("thing".into(), "elsewhere".into()));
    world.settle();
    world.assert_same_everywhere("thing", "-> elsewhere");
    world.remove(desktop, "thing");
    world.write(desktop, "thing", "a file again");
    world.settle();
    world.assert_same_everywhere("thing", "a file again");
    world.assert_paths_everywhere(&["thing"]);
}

#[test]
fn a_file_here_and_a_directory_there_at_one_name_are_both_kept() {
    let mut world = World::new(73);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.part(laptop, desktop);
    world.write(laptop, "thing", "a file");
    world.write(desktop, "thing/inside.txt", "in a directory");
    world.connect_all();
    world.settle();
    let paths = world.paths(laptop);
    assert!(paths.contains(&"thing/inside.txt".to_owned()), "{paths:?}");
    assert!(world.listing(laptop).values().any(|text| text == "a file"), "{paths:?}");
}

#[test]
fn odd_names_travel_byte_for_byte() {
    let mut world = World::new(74);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    let odd: [&[u8]; 7] = [b" ", b"-rf", b"a\nb", b"\xff\xfe\x80", b"...", b"\xe2\x80\xaetxt", &[b'n'; 255]];
    for name in odd {
        world.must(laptop, Act::Write(name.to_vec(), [b"text of ", name].concat()));
    }
    world.settle();
    for name in odd {
        assert!(matches!(world.machines[desktop.0].disk.tree.look(name), Ok(Some(_))), "{name:?}");
    }
}

#[test]
fn two_files_that_are_swapped_are_swapped_everywhere() {
    let mut world = World::new(75);
    let [laptop, _desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a.txt", "was a");
    world.write(laptop, "b.txt", "was b");
    world.settle();
    world.must(laptop, Act::Swap("a.txt".into(), "b.txt".into()));
    world.settle();
    world.assert_same_everywhere("a.txt", "was b");
    world.assert_same_everywhere("b.txt", "was a");
    world.assert_paths_everywhere(&["a.txt", "b.txt"]);
}

#[test]
fn modes_and_times_travel_alone() {
    let mut world = World::new(76);
    let [laptop, _desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "script.sh", "#!/bin/sh");
    world.settle();
    let before = world.sent.contents;
    world.must(laptop, Act::Chmod("script.sh".into(), 0o755));
    world.must(laptop, Act::Touch("script.sh".into(), 1_000_000_000));
    world.settle();
    assert_eq!(world.sent.contents, before);
}

#[test]
fn a_second_name_of_a_file_follows_what_is_written_by_the_first() {
    let mut world = World::new(77);
    let [laptop, _desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a.txt", "one");
    world.must(laptop, Act::HardLink("a.txt".into(), "b.txt".into()));
    world.settle();
    world.write(laptop, "a.txt", "two");
    world.settle();
    world.assert_same_everywhere("a.txt", "two");
    world.assert_same_everywhere("b.txt", "two");
}

/// Which paths are names of one file on a machine.
fn names_of_one_file(world: &World, here: Here) -> Vec<Vec<String>> {
    let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for (path, ino) in world.machines[here.0].disk.tree.walk() {
        names.entry(ino).or_default().push(String::from_utf8_lossy(&path).into_owned());
    }
    let mut several: Vec<_> = names.into_values().filter(|names| names.len() > 1).collect();
    several.sort();
    several
}

#[test]
fn two_names_of_one_file_are_two_names_of_one_file_everywhere() {
    let mut world = World::new(77);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a.txt", "one");
    world.must(laptop, Act::HardLink("a.txt".into(), "folder b.txt".into()));
    world.settle();
    assert_eq!(names_of_one_file(&world, desktop), [["a.txt", "folder b.txt"]]);
    // A name more, later; a change under one of them; a name less.
    world.must(desktop, Act::HardLink("folder b.txt".into(), "c.txt".into()));
    world.settle();
    assert_eq!(names_of_one_file(&world, laptop), [["a.txt", "c.txt", "folder b.txt"]]);
    world.write(laptop, "c.txt", "two");
    world.settle();
    for path in ["a.txt", "c.txt", "folder b.txt"] {
        world.assert_same_everywhere(path, "two");
    }
    assert_eq!(names_of_one_file(&world, desktop), [["a.txt", "c.txt", "folder b.txt"]]);
    world.remove(desktop, "a.txt");
    world.settle();
    assert_eq!(names_of_one_file(&world, laptop), [["c.txt", "folder b.txt"]]);
}

#[test]
fn a_name_that_leaves_a_file_for_one_of_its_own_leaves_it_everywhere() {
    let mut world = World::new(78);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a.txt", "one");
    world.must(laptop, Act::HardLink("a.txt".into(), "b.txt".into()));
    world.settle();
    // The very same bytes, saved as editors do: a file of its own.
    world.save(laptop, "b.txt", "one");
    world.settle();
    assert_eq!(names_of_one_file(&world, desktop), Vec::<Vec<String>>::new());
    world.write(desktop, "b.txt", "two");
    world.settle();
    world.assert_same_everywhere("a.txt", "one");
    world.assert_same_everywhere("b.txt", "two");
}

#[test]
fn extended_attributes_travel_alone_and_stay_through_an_edit() {
    let mut world = World::new(79);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "photo.jpg", "a picture");
    world.mkdir(laptop, "album");
    world.settle();
    let before = world.sent.contents;
    let colour = || b"user.colour".to_vec();
    for path in ["photo.jpg", "album"] {
        world.must(laptop, Act::Setfattr(path.into(), colour(), Some(b"red".to_vec())));
    }
    world.settle();
    assert_eq!(world.sent.contents, before);
    let xattrs = |world: &World, here: Here, path: &str| {
        let tree = &world.machines[here.0].disk.tree;
        let ino = tree.look(path.as_bytes()).expect("a path").expect("an entry");
        tree.get(ino).xattrs.get(&colour()).cloned()
    };
    for path in ["photo.jpg", "album"] {
        assert_eq!(xattrs(&world, desktop, path), Some(b"red".to_vec()), "{path}");
    }
    world.write(desktop, "photo.jpg", "another picture");
    world.settle();
    for here in [laptop, desktop] {
        assert_eq!(xattrs(&world, here, "photo.jpg"), Some(b"red".to_vec()));
    }
    world.must(desktop, Act::Setfattr("photo.jpg".into(), colour(), None));
    world.settle();
    assert_eq!(xattrs(&world, laptop, "photo.jpg"), None);
}

#[test]
fn what_one_name_of_a_file_got_is_told_of_a_name_that_it_got_along_with_that() {
    let mut world = World::new(4_398_050_511_263);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "a.txt", "one");
    world.settle();
    // Of the two names, the laptop makes two files: the first one is not known to be in a group when the second comes.
    world.must(desktop, Act::HardLink("a.txt".into(), "b.txt".into()));
    world.settle();
    assert_eq!(names_of_one_file(&world, laptop), Vec::<Vec<String>>::new());
    world.part(laptop, desktop);
    let colour = || b"user.colour".to_vec();
    world.must(laptop, Act::Setfattr("b.txt".into(), colour(), Some(b"red".to_vec())));
    world.must(laptop, Act::HardLink("a.txt".into(), "c.txt".into()));
    world.run_for(3000);
    world.connect_all();
    world.settle();
    assert_eq!(names_of_one_file(&world, desktop), [["a.txt", "b.txt", "c.txt"]]);
    for here in [laptop, desktop] {
        for path in ["a.txt", "b.txt", "c.txt"] {
            let tree = &world.machines[here.0].disk.tree;
            let ino = tree.look(path.as_bytes()).expect("a path").expect("an entry");
            assert_eq!(tree.get(ino).xattrs.get(&colour()), Some(&b"red".to_vec()), "{path} on {here:?}");
        }
    }
}

#[test]
fn a_file_that_became_a_directory_here_and_a_link_there_is_both() {
    let mut world = World::new(75);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "thing", "a file");
    world.settle();
    world.part(laptop, desktop);
    world.remove(laptop, "thing");
    world.write(laptop, "thing/inside.txt", "in a directory");
    world.must(desktop, Act::Link("thing".into(), "elsewhere".into()));
    world.connect_all();
    world.settle();
    let listing = world.listing(laptop);
    assert_eq!(listing.get("thing/inside.txt").map(String::as_str), Some("in a directory"), "{listing:?}");
    assert!(listing.values().any(|shown| shown == "-> elsewhere"), "{listing:?}");
}

#[test]
fn a_rename_that_changes_nothing_but_case_is_a_rename() {
    let mut world = World::new(76);
    let [laptop, _desktop] = world.paired(["laptop", "desktop"]);
    world.write(laptop, "Notes/readme.TXT", "text");
    world.settle();
    world.rename(laptop, "Notes/readme.TXT", "Notes/README.txt");
    world.rename(laptop, "Notes", "notes");
    world.settle();
    world.assert_paths_everywhere(&["notes", "notes/README.txt"]);
    world.assert_same_everywhere("notes/README.txt", "text");
}

#[test]
fn names_that_differ_in_nothing_but_case_or_unicode_form_are_different_names() {
    let mut world = World::new(77);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    world.part(laptop, desktop);
    world.write(laptop, "caf\u{e9}.txt", "composed");
    world.write(desktop, "cafe\u{301}.txt", "decomposed");
    world.write(laptop, "Plan.txt", "with a capital");
    world.write(desktop, "plan.txt", "without");
    world.connect_all();
    world.settle();
    assert_eq!(world.paths(laptop).len(), 4, "{:?}", world.paths(laptop));
    world.assert_same_everywhere("caf\u{e9}.txt", "composed");
    world.assert_same_everywhere("cafe\u{301}.txt", "decomposed");
    world.assert_same_everywhere("plan.txt", "without");
}
