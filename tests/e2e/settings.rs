//! GNOME settings between two machines, through the real dconf service and the schemas installed here.

use anyhow::{Context, Result, ensure};
use hearth_tests::answer::Setting;
use hearth_tests::machine::Machine;
use hearth_tests::pair::{LATER, Pair, SOON};
use serde_json::Value;

const INTERFACE: &str = "org.gnome.desktop.interface";

#[test]
fn a_setting_made_here_is_seen_there_and_back() -> Result<()> {
    let pair = Pair::joined()?;
    set(&pair.laptop, INTERFACE, "color-scheme", "prefer-dark")?;
    pair.desktop.until_setting(INTERFACE, "color-scheme", "'prefer-dark'", SOON)?;
    set(&pair.desktop, INTERFACE, "clock-format", "12h")?;
    pair.laptop.until_setting(INTERFACE, "clock-format", "'12h'", SOON)?;
    pair.desktop.gsettings(&["reset", INTERFACE, "clock-format"])?;
    pair.laptop.until_setting(INTERFACE, "clock-format", "'24h'", SOON)?;
    ensure!(pair.laptop.dconf(&["read", "/org/gnome/desktop/interface/clock-format"])?.is_empty(), "reset means unset");
    pair.settle(SOON)
}

#[test]
fn wait_counts_a_setting_that_still_settles() -> Result<()> {
    let pair = Pair::joined()?;
    set(&pair.laptop, "org.gnome.desktop.calendar", "show-weekdate", "true")?;
    pair.laptop.settle(SOON)?;
    ensure!(pair.desktop.gsettings(&["get", "org.gnome.desktop.calendar", "show-weekdate"])? == "true");
    Ok(())
}

#[test]
fn what_belongs_to_one_machine_stays_there() -> Result<()> {
    let pair = Pair::joined()?;
    set(&pair.laptop, INTERFACE, "scaling-factor", "2")?;
    set(&pair.laptop, INTERFACE, "toolkit-accessibility", "true")?;
    set(&pair.laptop, INTERFACE, "clock-show-seconds", "true")?;
    pair.desktop.until_setting(INTERFACE, "clock-show-seconds", "true", SOON)?;
    pair.settle(SOON)?;
    ensure!(pair.desktop.gsettings(&["get", INTERFACE, "scaling-factor"])? == "uint32 0");
    ensure!(pair.desktop.gsettings(&["get", INTERFACE, "toolkit-accessibility"])? == "false");
    let explained: Value =
        pair.laptop.ask(["settings", "explain", "/org/gnome/desktop/interface/toolkit-accessibility"])?;
    ensure!(explained["class"] == "never", "{explained}");
    Ok(())
}

#[test]
fn settings_of_both_merge_when_a_machine_joins() -> Result<()> {
    let pair = Pair::joined_with(|laptop, desktop| {
        set(laptop, INTERFACE, "clock-show-weekday", "true")?;
        set(laptop, INTERFACE, "clock-format", "12h")?;
        set(desktop, INTERFACE, "clock-show-seconds", "true")?;
        set(desktop, INTERFACE, "clock-format", "24h")
    })?;
    for machine in [&pair.laptop, &pair.desktop] {
        machine.until_setting(INTERFACE, "clock-show-weekday", "true", SOON)?;
        machine.until_setting(INTERFACE, "clock-show-seconds", "true", SOON)?;
        machine.until_setting(INTERFACE, "clock-format", "'12h'", SOON)?;
    }
    pair.settle(SOON)
}

#[test]
fn a_value_that_no_schema_takes_is_kept_and_not_applied() -> Result<()> {
    let pair = Pair::joined()?;
    pair.laptop.dconf(&["write", "/org/gnome/desktop/interface/clock-format", "'nonsense'"])?;
    set(&pair.laptop, INTERFACE, "clock-show-date", "false")?;
    pair.desktop.until_setting(INTERFACE, "clock-show-date", "false", SOON)?;
    pair.settle(SOON)?;
    let written = pair.desktop.dconf(&["read", "/org/gnome/desktop/interface/clock-format"])?;
    ensure!(written.is_empty(), "a value out of range is not written: {written}");
    Ok(())
}

#[test]
fn our_own_writes_are_no_edits_and_quiet_follows() -> Result<()> {
    let pair = Pair::joined()?;
    set(&pair.laptop, INTERFACE, "clock-show-seconds", "true")?;
    pair.desktop.until_setting(INTERFACE, "clock-show-seconds", "true", SOON)?;
    pair.settle(SOON)?;
    let history = |machine: &Machine| -> Result<usize> {
        let rows: Value = machine.ask(["settings", "history", "/org/gnome/desktop/interface/clock-show-seconds"])?;
        let rows = rows.as_array().or_else(|| rows["changes"].as_array()).map(Vec::len);
        rows.context("settings history answers with a list")
    };
    let before = (history(&pair.laptop)?, history(&pair.desktop)?);
    // Another key there and back gives an echo every chance to show.
    set(&pair.desktop, INTERFACE, "clock-show-date", "false")?;
    pair.laptop.until_setting(INTERFACE, "clock-show-date", "false", SOON)?;
    set(&pair.laptop, INTERFACE, "clock-show-date", "true")?;
    pair.desktop.until_setting(INTERFACE, "clock-show-date", "true", SOON)?;
    pair.settle(SOON)?;
    ensure!((history(&pair.laptop)?, history(&pair.desktop)?) == before, "nothing was written twice");
    Ok(())
}

#[test]
fn get_says_value_and_class() -> Result<()> {
    let pair = Pair::joined()?;
    set(&pair.laptop, INTERFACE, "clock-format", "12h")?;
    pair.laptop.settle(SOON)?;
    for key in ["/org/gnome/desktop/interface/clock-format", "org.gnome.desktop.interface:clock-format"] {
        let setting: Setting = pair.desktop.ask(["settings", "get", key])?;
        ensure!(setting.value.as_deref() == Some("'12h'") && setting.class == "shared", "{setting:?}");
    }
    Ok(())
}

#[test]
fn a_machine_that_was_off_gets_the_settings_later() -> Result<()> {
    let mut pair = Pair::joined()?;
    pair.desktop.stop()?;
    set(&pair.laptop, INTERFACE, "clock-format", "12h")?;
    pair.laptop.write("a file too.txt", "written meanwhile")?;
    pair.desktop.start()?;
    pair.desktop.until_setting(INTERFACE, "clock-format", "'12h'", LATER)?;
    pair.settle(LATER)
}

fn set(machine: &Machine, schema: &str, key: &str, value: &str) -> Result<()> {
    machine.gsettings(&["set", schema, key, value]).map(drop)
}
