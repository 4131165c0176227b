//! Two people changed different things in a file whose format is understood: both changes stand, and nothing is lost.

use hearth_tests::sim::World;

use crate::apart_with;

const SHELL: &str = "alias l=ls\nexport EDITOR=vi\n# prompt\nPS1='$ '\n# paths\nPATH=$PATH:bin\n";

#[test]
fn two_changes_of_different_lines_are_both_there_and_nobody_is_asked() {
    let (mut world, laptop, desktop) = apart_with(".bashrc", SHELL);
    let (ours, theirs) = (changed("vi", "nano"), changed("bin", "scripts"));
    world.write(laptop, ".bashrc", &ours);
    world.write(desktop, ".bashrc", &theirs);
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&[".bashrc"]);
    world.assert_same_everywhere(".bashrc", &changed("vi", "nano").replace("bin", "scripts"));
    assert!(in_some_history(&world, &ours) && in_some_history(&world, &theirs));
}

#[test]
fn several_saves_on_one_side_count_as_one_change() {
    let (mut world, laptop, desktop) = apart_with(".bashrc", SHELL);
    for editor in ["ed", "emacs", "nano"] {
        world.save(laptop, ".bashrc", &changed("vi", editor));
        world.run_for(5000);
    }
    world.write(desktop, ".bashrc", &changed("bin", "scripts"));
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&[".bashrc"]);
    world.assert_same_everywhere(".bashrc", &changed("vi", "nano").replace("bin", "scripts"));
}

#[test]
fn what_others_have_long_heard_of_is_merged_by_who_has_seen_it_come_about() {
    let mut world = World::new(14);
    let [laptop, desktop, server] = world.paired(["laptop", "desktop", "server"]);
    world.write(laptop, ".bashrc", SHELL);
    world.settle();
    world.go_offline(desktop);
    world.write(desktop, ".bashrc", &changed("bin", "scripts"));
    world.run_for(1000);
    for editor in ["ed", "emacs", "nano"] {
        world.save(laptop, ".bashrc", &changed("vi", editor));
        world.run_until_quiet();
        assert_eq!(world.read(server, ".bashrc"), Some(changed("vi", editor)));
    }
    world.go_online(desktop);
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&[".bashrc"]);
    world.assert_same_everywhere(".bashrc", &changed("vi", "nano").replace("bin", "scripts"));
}

#[test]
fn two_changes_of_the_same_line_are_a_conflict() {
    let (mut world, laptop, desktop) = apart_with(".bashrc", SHELL);
    world.write(laptop, ".bashrc", &changed("vi", "nano"));
    world.write(desktop, ".bashrc", &changed("vi", "emacs"));
    world.connect_all();
    world.settle();
    assert_eq!(world.paths(laptop).len(), 2, "{:?}", world.paths(laptop));
}

#[test]
fn a_machine_that_hears_of_two_further_changes_of_the_same_line_at_once_has_all_three() {
    let mut world = World::new(15);
    let [laptop, desktop, server] = world.paired(["laptop", "desktop", "server"]);
    world.write(laptop, ".bashrc", SHELL);
    world.settle();
    world.go_offline(laptop);
    world.write(desktop, ".bashrc", &changed("vi", "emacs"));
    world.write(server, ".bashrc", &changed("vi", "nano"));
    world.run_until_quiet();
    world.write(laptop, ".bashrc", &changed("vi", "ed"));
    world.run_for(1000);
    world.go_online(laptop);
    world.settle();
    assert_eq!(world.paths(laptop).len(), 3, "{:?}", world.paths(laptop));
}

#[test]
fn three_machines_that_changed_three_lines_have_all_three() {
    let mut world = World::new(12);
    let [laptop, desktop, server] = world.paired(["laptop", "desktop", "server"]);
    world.write(laptop, ".bashrc", SHELL);
    world.settle();
    for here in [laptop, desktop, server] {
        world.go_offline(here);
    }
    world.write(laptop, ".bashrc", &changed("vi", "nano"));
    world.write(desktop, ".bashrc", &changed("bin", "scripts"));
    world.write(server, ".bashrc", &changed("$ ", "> "));
    for here in [laptop, desktop, server] {
        world.go_online(here);
    }
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&[".bashrc"]);
    let all = changed("vi", "nano").replace("bin", "scripts").replace("$ ", "> ");
    world.assert_same_everywhere(".bashrc", &all);
}

#[test]
fn a_deleted_sibling_goes_also_where_its_file_cannot_be_merged_with_another_change() {
    let (mut world, laptop, desktop) = apart_with(".bashrc", SHELL);
    world.write(laptop, ".bashrc", &changed("vi", "nano"));
    world.write(desktop, ".bashrc", &changed("vi", "emacs"));
    world.connect_all();
    world.settle();
    world.part(laptop, desktop);
    let sibling = world.paths(desktop).into_iter().find(|path| path != ".bashrc").expect("a conflict");
    world.remove(desktop, &sibling);
    world.write(desktop, ".bashrc", &changed("vi", "ed"));
    world.write(laptop, ".bashrc", &changed("vi", "joe"));
    world.run_for(1000);
    world.connect_all();
    world.settle();
    assert_eq!(world.paths(laptop).len(), 2, "{:?}", world.paths(laptop));
    assert!(!world.paths(laptop).contains(&sibling));
}

#[test]
fn what_two_machines_wrote_before_they_met_has_no_base_and_is_a_conflict() {
    let mut world = World::new(13);
    let (laptop, desktop) = (world.add_down("laptop"), world.add_down("desktop"));
    world.write(laptop, ".bashrc", SHELL);
    world.write(desktop, ".bashrc", &changed("vi", "nano"));
    world.start(laptop);
    world.start(desktop);
    world.connect_all();
    world.settle();
    assert_eq!(world.paths(laptop).len(), 2, "{:?}", world.paths(laptop));
}

#[test]
fn a_machine_that_never_had_the_base_shows_both_until_another_has_merged_them() {
    let (mut world, laptop, desktop) = apart_with(".bashrc", SHELL);
    world.write(laptop, ".bashrc", &changed("vi", "nano"));
    world.write(desktop, ".bashrc", &changed("bin", "scripts"));
    world.run_for(1000);
    let server = world.add("server");
    world.connect(laptop, server);
    world.run_until_quiet();
    world.go_offline(laptop);
    world.connect(desktop, server);
    world.run_until_quiet();
    let both = changed("vi", "nano").replace("bin", "scripts");
    for here in [desktop, server] {
        assert_eq!(world.paths(here), [".bashrc"]);
        assert_eq!(world.read(here, ".bashrc").as_ref(), Some(&both));
    }
    world.go_online(laptop);
    world.connect_all();
    world.settle();
    world.assert_paths_everywhere(&[".bashrc"]);
    world.assert_same_everywhere(".bashrc", &both);
}

fn changed(from: &str, to: &str) -> String {
    SHELL.replace(from, to)
}

fn in_some_history(world: &World, text: &str) -> bool {
    world.machines.iter().any(|machine| {
        let tree = &machine.disk.tree;
        tree.history.values().filter_map(|ino| tree.bytes(*ino).ok()).any(|bytes| bytes.as_slice() == text.as_bytes())
    })
}
