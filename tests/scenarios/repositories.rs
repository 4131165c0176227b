//! A git repository in a home survives: what names an object comes after it, nothing that is needed goes, and the refs of
//! two machines are both kept.

use hearth_tests::sim::disk::{Act, Crash};
use hearth_tests::sim::{Here, World};

const MAIN: &str = "r/.git/refs/heads/main";
const LOG: &str = "r/.git/logs/refs/heads/main";
const PACKED: &str = "r/.git/packed-refs";
const LOCK: &str = "r/.git/index.lock";
const HEADER: &str = "# pack-refs with: peeled fully-peeled sorted \n";

#[test]
fn a_ref_never_stands_on_a_disk_that_lacks_its_objects() {
    let objects: Vec<String> = (0..40).map(|number| loose(&id(number))).collect();
    for seed in 0..6 {
        let (mut world, laptop, desktop) = with_repository(200 + seed);
        world.machines[laptop.0].sightless = if seed % 2 == 0 { 0 } else { 30 };
        for (number, object) in objects.iter().enumerate() {
            world.write(laptop, object, &format!("object {number}"));
            world.run_for(seed * 7);
        }
        world.save(laptop, MAIN, &id(39));
        for _ in 0..600 {
            world.run_for(5);
            if world.read(desktop, MAIN) == Some(id(39)) {
                let missing: Vec<&String> = objects.iter().filter(|path| world.read(desktop, path).is_none()).collect();
                assert!(missing.is_empty(), "{seed}: {missing:?}\n{}", world.describe());
            }
        }
        world.settle();
        world.assert_same_everywhere(MAIN, &id(39));
    }
}

#[test]
fn a_commit_made_while_the_daemon_was_down_is_told_in_order() {
    for seed in 0..4 {
        let (mut world, laptop, desktop) = with_repository(210 + seed);
        world.crash(laptop, Crash::Kill);
        // What lies higher is looked at first.
        world.machines[laptop.0].portions.spots = 1;
        world.write(laptop, PACKED, &format!("{HEADER}{} refs/tags/v1\n", id(7)));
        world.save(laptop, MAIN, &id(7));
        for number in 0..30 {
            world.write(laptop, &loose(&id(number)), &format!("object {number}"));
        }
        world.start(laptop);
        world.connect_all();
        for _ in 0..600 {
            world.run_for(5);
            if world.read(desktop, MAIN) == Some(id(7)) || world.read(desktop, PACKED).is_some() {
                assert!(
                    (0..30).all(|number| world.read(desktop, &loose(&id(number))).is_some()),
                    "{}",
                    world.describe()
                );
            }
        }
        world.settle();
        world.assert_same_everywhere(MAIN, &id(7));
    }
}

#[test]
fn a_ref_waits_for_an_object_that_cannot_come_and_a_person_is_told() {
    let (mut world, laptop, desktop) = with_repository(220);
    world.machines[desktop.0].exclude("r/.git/objects", world.now_ms);
    world.write(laptop, &loose(&id(1)), "object");
    world.save(laptop, MAIN, &id(1));
    world.run_for(30_000);
    assert_eq!(world.read(desktop, MAIN), Some(id(0)));
    let told = problems(&world, desktop);
    assert!(told.iter().any(|what| what.contains("its refs wait for an object: r/.git/objects/")), "{told:?}");
    assert_eq!(problems(&world, laptop), Vec::<String>::new());
}

#[test]
fn nothing_is_applied_while_a_git_command_holds_a_lock() {
    let (mut world, laptop, desktop) = with_repository(230);
    locked(&mut world, desktop);
    world.save(laptop, "r/.git/index", "staged");
    world.write(laptop, "r/work.txt", "text");
    world.run_for(5000);
    assert_eq!(world.read(desktop, "r/work.txt").as_deref(), Some("text"));
    assert_eq!(world.read(desktop, "r/.git/index").as_deref(), Some("index"));
    assert_eq!(problems(&world, desktop), Vec::<String>::new(), "a command that runs is no problem");
    world.run_for(15_000);
    assert_eq!(world.read(desktop, "r/.git/index").as_deref(), Some("index"));
    assert_eq!(problems(&world, desktop), ["a git command holds r/.git/index.lock"]);
    world.remove(desktop, LOCK);
    world.settle();
    world.assert_same_everywhere("r/.git/index", "staged");
    assert_eq!(problems(&world, desktop), Vec::<String>::new());
}

#[test]
fn a_ref_that_a_git_command_locks_at_any_moment_is_not_replaced_after_that() {
    let lock = format!("{MAIN}.lock");
    let mut locked = 0;
    for call in 0..60 {
        let (mut world, laptop, desktop) = with_repository(235);
        world.write(laptop, &loose(&id(1)), "object");
        world.settle();
        world.machines[desktop.0].disk.ambush(call, Act::Mkdir(lock.clone().into()));
        world.save(laptop, MAIN, &id(1));
        world.run_for(3000);
        let tree = &world.machines[desktop.0].disk.tree;
        let changed_at = |path: &str| tree.look(path.as_bytes()).ok().flatten().map(|ino| tree.stat(ino).ctime);
        // Where the ref was locked by us at that moment, git would have waited.
        let (Some(taken), Some(changed)) = (changed_at(&lock), changed_at(MAIN)) else { continue };
        locked += 1;
        assert!(world.read(desktop, MAIN) == Some(id(0)) || changed < taken, "call {call}");
    }
    assert!(locked > 10, "{locked}");
}

#[test]
fn what_a_git_command_is_about_to_change_is_not_told_until_it_is_through() {
    let (mut world, laptop, desktop) = with_repository(240);
    locked(&mut world, laptop);
    world.save(laptop, MAIN, &id(1));
    world.write(laptop, &loose(&id(1)), "object");
    world.run_for(20_000);
    assert_eq!(world.read(desktop, &loose(&id(1))).as_deref(), Some("object"), "objects go ahead");
    assert_eq!(world.read(desktop, MAIN), Some(id(0)));
    world.remove(laptop, LOCK);
    world.save(laptop, "r/.git/ORIG_HEAD", &id(0));
    world.settle();
    world.assert_same_everywhere(MAIN, &id(1));
}

#[test]
fn a_lock_that_was_left_behind_does_not_keep_a_repository_from_others_for_ever() {
    let (mut world, laptop, desktop) = with_repository(250);
    locked(&mut world, laptop);
    world.save(laptop, MAIN, &id(1));
    world.run_for(90_000);
    assert_eq!(world.read(desktop, MAIN), Some(id(1)));
}

#[test]
fn a_lock_of_ours_does_not_outlive_a_crash() {
    for calls in 0..40 {
        for how in [Crash::Kill, Crash::PowerCut] {
            let (mut world, laptop, desktop) = with_repository(260 + u64::from(calls));
            world.save(laptop, MAIN, &id(1));
            world.save(laptop, "r/.git/HEAD", "ref: refs/heads/other");
            world.remove(laptop, "r/.git/refs/heads/old");
            world.machines[desktop.0].arm(calls, how);
            world.settle();
            let locks: Vec<String> = world.paths(desktop).into_iter().filter(|path| path.ends_with(".lock")).collect();
            assert!(locks.is_empty(), "{calls} {how:?}: {locks:?}");
            world.assert_same_everywhere(MAIN, &id(1));
        }
    }
}

#[test]
fn a_branch_that_two_machines_moved_is_two_branches() {
    let (mut world, laptop, desktop) = with_repository(300);
    world.part(laptop, desktop);
    world.save(laptop, MAIN, &id(1));
    world.save(desktop, MAIN, &id(2));
    world.connect_all();
    world.settle();
    let refs = below(&world, laptop, "r/.git/refs/heads/main");
    assert_eq!(refs.len(), 2, "{refs:?}");
    let mut values: Vec<String> = refs.iter().filter_map(|path| world.read(desktop, path)).collect();
    values.sort();
    assert_eq!(values, [id(1), id(2)]);
    let other = refs.iter().find(|path| *path != MAIN).expect("another branch");
    assert!(other.starts_with("r/.git/refs/heads/main-conflict-"), "{other}");
    assert!(!other.contains([' ', '(', ',', '~', '^', ':', '?', '*', '[', '\\']), "{other}");
    let siblings = world.machines[laptop.0].engine().siblings().expect("an index in memory");
    assert_eq!(siblings.len(), 1);
    assert_eq!(siblings[0].path, MAIN.as_bytes());
}

#[test]
fn the_logs_of_both_are_one() {
    let (mut world, laptop, desktop) = with_repository(310);
    world.part(laptop, desktop);
    world.write(laptop, LOG, &[entry(0, 10), entry(1, 20), entry(3, 40)].concat());
    world.write(desktop, LOG, &[entry(0, 10), entry(2, 30)].concat());
    world.connect_all();
    world.settle();
    world.assert_same_everywhere(LOG, &[entry(0, 10), entry(1, 20), entry(2, 30), entry(3, 40)].concat());
}

#[test]
fn packed_refs_of_both_are_one_file() {
    let (mut world, laptop, desktop) = with_repository(320);
    world.write(laptop, PACKED, &format!("{HEADER}{} refs/tags/v1\n", id(0)));
    world.settle();
    world.part(laptop, desktop);
    world.save(laptop, PACKED, &format!("{HEADER}{} refs/heads/a\n{} refs/tags/v1\n", id(1), id(1)));
    world.save(desktop, PACKED, &format!("{HEADER}{} refs/heads/b\n{} refs/tags/v1\n", id(2), id(2)));
    world.connect_all();
    world.settle();
    let merged = world.read(laptop, PACKED).expect("packed refs");
    world.assert_same_everywhere(PACKED, &merged);
    for line in [format!("{} refs/heads/a\n", id(1)), format!("{} refs/heads/b\n", id(2))] {
        assert!(merged.contains(&line), "{merged}");
    }
    assert!([id(1), id(2)].iter().all(|id| merged.contains(&format!("{id} refs/tags/v1"))), "{merged}");
}

#[test]
fn a_branch_that_one_machine_packed_and_another_moved_is_two_branches() {
    let (mut world, laptop, desktop) = with_repository(330);
    world.part(laptop, desktop);
    world.save(laptop, MAIN, &id(1));
    world.write(desktop, PACKED, &format!("{HEADER}{} refs/heads/main\n", id(2)));
    world.remove(desktop, MAIN);
    world.connect_all();
    world.settle();
    world.assert_same_everywhere(MAIN, &id(1));
    let everything: String = ["r/.git/refs/heads/main", PACKED]
        .iter()
        .flat_map(|path| below(&world, laptop, path))
        .filter(|path| path != PACKED)
        .filter_map(|path| world.read(laptop, &path))
        .collect();
    assert!(everything.contains(&id(2)), "{}", world.describe());
}

#[test]
fn packed_refs_that_two_machines_began_lose_nothing() {
    let (mut world, laptop, desktop) = with_repository(340);
    world.part(laptop, desktop);
    world.write(laptop, PACKED, &format!("{HEADER}{} refs/heads/main\n", id(1)));
    world.remove(laptop, MAIN);
    world.write(desktop, PACKED, &format!("{HEADER}{} refs/heads/main\n", id(2)));
    world.remove(desktop, MAIN);
    world.connect_all();
    world.settle();
    let seen: Vec<String> = below(&world, laptop, "r/.git/")
        .into_iter()
        .filter(|path| path == PACKED || path.starts_with("r/.git/refs/"))
        .filter_map(|path| world.read(laptop, &path))
        .collect();
    for wanted in [id(1), id(2)] {
        assert!(seen.iter().any(|text| text.contains(&wanted)), "{wanted}: {seen:?}");
    }
}

#[test]
fn what_a_gc_packed_goes_and_what_it_dropped_comes_back_if_it_is_needed_elsewhere() {
    let (mut world, laptop, desktop) = with_repository(400);
    for number in 1..6 {
        world.write(laptop, &loose(&id(number)), &format!("object {number}"));
    }
    world.settle();
    pack(&mut world, laptop, "1", &[1, 2, 3, 4]);
    for number in 1..6 {
        world.remove(laptop, &loose(&id(number)));
    }
    world.settle();
    for number in 1..5 {
        assert!(!world.paths(desktop).contains(&loose(&id(number))), "packed: {number}\n{}", world.describe());
    }
    world.assert_same_everywhere(&loose(&id(5)), "object 5");
}

#[test]
fn a_pack_goes_as_a_whole_or_stays_as_a_whole() {
    let (mut world, laptop, desktop) = with_repository(410);
    pack(&mut world, laptop, "1", &[1, 2, 3]);
    pack(&mut world, laptop, "2", &[4, 5]);
    world.settle();
    pack(&mut world, laptop, "3", &[1, 2, 3, 4]);
    for name in ["1", "2"] {
        world.remove(laptop, &packed(name, "idx"));
        world.remove(laptop, &packed(name, "pack"));
    }
    world.settle();
    for here in [laptop, desktop] {
        let paths = world.paths(here);
        let stands = |name: &str| ["idx", "pack"].map(|ending| paths.contains(&packed(name, ending)));
        assert_eq!((stands("1"), stands("2"), stands("3")), ([false; 2], [true; 2], [true; 2]), "{}", world.describe());
    }
}

#[test]
fn two_gcs_at_once_leave_every_object_on_both() {
    let (mut world, laptop, desktop) = with_repository(420);
    for number in 1..5 {
        world.write(laptop, &loose(&id(number)), &format!("object {number}"));
    }
    world.settle();
    world.part(laptop, desktop);
    for (here, name, extra) in [(laptop, "1", 8), (desktop, "2", 9)] {
        world.write(here, &loose(&id(extra)), &format!("object {extra}"));
        pack(&mut world, here, name, &[1, 2, 3, 4, extra]);
        for number in [1, 2, 3, 4, extra] {
            world.remove(here, &loose(&id(number)));
        }
    }
    world.connect_all();
    world.settle();
    for here in [laptop, desktop] {
        let paths = world.paths(here);
        assert!(["1", "2"].iter().all(|name| paths.contains(&packed(name, "pack"))), "{}", world.describe());
    }
}

#[test]
fn one_object_written_in_two_ways_is_one_object() {
    let (mut world, laptop, desktop) = with_repository(430);
    world.part(laptop, desktop);
    world.write(laptop, &loose(&id(1)), "compressed well");
    world.write(desktop, &loose(&id(1)), "compressed badly");
    world.connect_all();
    world.settle();
    assert_eq!(below(&world, laptop, "r/.git/objects/").iter().filter(|path| path.contains("conflict")).count(), 0);
    let text = world.read(laptop, &loose(&id(1))).expect("the object");
    world.assert_same_everywhere(&loose(&id(1)), &text);
    pack(&mut world, laptop, "1", &[1]);
    world.remove(laptop, &loose(&id(1)));
    world.settle();
    assert!(!world.paths(desktop).contains(&loose(&id(1))));
}

#[test]
fn a_repository_can_be_deleted() {
    let (mut world, laptop, desktop) = with_repository(440);
    world.write(laptop, &loose(&id(1)), "object");
    world.settle();
    world.remove(laptop, "r");
    world.settle();
    assert!(below(&world, desktop, "r").is_empty(), "{}", world.describe());
}

#[test]
fn a_repository_that_was_deleted_here_and_committed_to_there_is_whole() {
    let (mut world, laptop, desktop) = with_repository(450);
    world.write(laptop, &loose(&id(1)), "object 1");
    world.settle();
    let before = below(&world, desktop, "r/.git/");
    world.part(laptop, desktop);
    world.remove(laptop, "r");
    world.write(desktop, &loose(&id(2)), "object 2");
    world.save(desktop, MAIN, &id(2));
    world.connect_all();
    world.settle();
    for path in before.iter().chain([&loose(&id(2))]) {
        for here in [laptop, desktop] {
            assert!(world.paths(here).contains(path), "{path}\n{}", world.describe());
        }
    }
}

#[test]
fn a_gc_that_drops_thousands_of_objects_is_nobodys_question() {
    let (mut world, laptop, desktop) = with_repository(460);
    let numbers: Vec<u32> = (1..400).collect();
    for &number in &numbers {
        world.write(laptop, &loose(&id(number)), &format!("object {number}"));
    }
    world.settle();
    pack(&mut world, laptop, "1", &numbers);
    for &number in &numbers {
        world.remove(laptop, &loose(&id(number)));
    }
    world.settle();
    assert_eq!(world.machines[laptop.0].engine().holds().count(), 0);
    assert!(!world.paths(desktop).contains(&loose(&id(7))));
}

/// Two connected machines with a repository in common.
fn with_repository(seed: u64) -> (World, Here, Here) {
    let mut world = World::new(seed);
    let [laptop, desktop] = world.paired(["laptop", "desktop"]);
    for here in [laptop, desktop] {
        let now_ms = world.now_ms;
        world.machines[here.0].exclude(LOCK, now_ms);
    }
    world.write(laptop, "r/.git/HEAD", "ref: refs/heads/main");
    world.write(laptop, "letter.txt", "dear all");
    world.write(laptop, "r/.git/index", "index");
    world.write(laptop, MAIN, &id(0));
    world.write(laptop, "r/.git/refs/heads/old", &id(0));
    world.write(laptop, LOG, &entry(0, 10));
    world.write(laptop, &loose(&id(0)), "object 0");
    world.settle();
    (world, laptop, desktop)
}

fn locked(world: &mut World, here: Here) {
    world.write(here, LOCK, "");
    world.run_for(1000);
}

fn problems(world: &World, here: Here) -> Vec<String> {
    world.machines[here.0].engine().problems().map(|problem| problem.what.clone()).collect()
}

fn below(world: &World, here: Here, prefix: &str) -> Vec<String> {
    world.paths(here).into_iter().filter(|path| path.starts_with(prefix)).collect()
}

fn id(number: u32) -> String {
    format!("{:02x}{number:038x}", number % 251)
}

fn loose(id: &str) -> String {
    format!("r/.git/objects/{}/{}", &id[..2], &id[2..])
}

fn packed(name: &str, ending: &str) -> String {
    format!("r/.git/objects/pack/pack-{}.{ending}", name.repeat(40))
}

fn entry(number: u32, at: u32) -> String {
    format!("{} {} A U Thor <a@b> {at} +0000\tcommit: {number}\n", id(0), id(number))
}

/// Writes a pack with these objects, and its index, as git does.
fn pack(world: &mut World, here: Here, name: &str, numbers: &[u32]) {
    let digit = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("digits"), 16).expect("digits");
    let mut ids: Vec<Vec<u8>> =
        numbers.iter().map(|number| id(*number).as_bytes().chunks(2).map(digit).collect()).collect();
    ids.sort();
    let mut index = vec![0xff, b't', b'O', b'c', 0, 0, 0, 2];
    for first in 0..=255u8 {
        let upto = ids.iter().filter(|id| id[0] <= first).count();
        index.extend(u32::try_from(upto).expect("few").to_be_bytes());
    }
    index.extend(ids.concat());
    index.extend(vec![0; ids.len() * 8 + 40]);
    world.write(here, &packed(name, "pack"), &format!("pack {name}"));
    world.must(here, Act::Write(packed(name, "idx").into_bytes(), index));
}
