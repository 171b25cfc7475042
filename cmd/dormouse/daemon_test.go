package main

import (
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/dormouse-sandbox/dormouse/sandboxd"
)

// parse parses a command line and returns the settings of the selected command.
func parse(t *testing.T, words ...string) (*kong.Context, sandboxd.Settings) {
	t.Helper()
	k, err := newParser(t.Context()).Parse(words)
	if err != nil {
		t.Fatalf("dormouse %q: %v", words, err)
	}
	return k, k.Selected().Target.FieldByName("Settings").Interface().(sandboxd.Settings)
}

// TestDaemonHasTheSettingsOfItsClient checks that the daemon that a command starts gets every setting of the command, from
// flags and from environment variables.
func TestDaemonHasTheSettingsOfItsClient(t *testing.T) {
	t.Setenv("DORMOUSE_MAX_DISK", "7GB")
	values := map[string][]string{
		"Engine": {"gvisor"}, "LogLevel": {"debug"}, "TTL": {"1d12h"}, "Image": {"an-image:1"}, "Runtime": {"runsc"},
		"AllowImage": {"b:1", "c:2"}, "MaxSandboxes": {"7"}, "MaxMemory": {"3GB"}, "IdleSuspend": {"0"}, "CheckpointEvery": {"2m"},
		"WithoutCgroups": {"true"}, "DockerDirectExec": {"false"}, "Home": {t.TempDir()},
	}
	_, defaults := parse(t, "ls")
	given := []string{"ls"}
	sandboxdFlags := flagNames(t)
	for field := range reflect.TypeFor[sandboxd.Settings]().Fields() {
		if field.Name == "MaxDisk" {
			continue // set by the environment
		}
		if values[field.Name] == nil {
			t.Fatalf("the test has no value for the setting %s: add one that is not its default", field.Name)
		}
		for _, v := range values[field.Name] {
			given = append(given, "--"+sandboxdFlags[field.Name]+"="+v)
		}
	}
	k, want := parse(t, given...)
	os.Unsetenv("DORMOUSE_MAX_DISK")
	args := daemonArgs(k)
	_, got := parse(t, append([]string{"sandboxd", "--home=" + want.Home}, args...)...)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the daemon's settings are\n%+v, want those of its client:\n%+v", got, want)
	}
	for field := range reflect.TypeFor[sandboxd.Settings]().Fields() {
		if reflect.DeepEqual(reflect.ValueOf(want).FieldByIndex(field.Index).Interface(), reflect.ValueOf(defaults).FieldByIndex(field.Index).Interface()) && field.Name != "MaxDisk" {
			t.Errorf("the test's value of %s is its default, so the test proves nothing", field.Name)
		}
	}
	if !slices.Contains(args, "--on-demand") || slices.ContainsFunc(args, func(a string) bool { return strings.HasPrefix(a, "--home") }) {
		t.Errorf("daemonArgs() = %q, want --on-demand and no home", args)
	}
}

// flagNames returns the flag of each field of Settings.
func flagNames(t *testing.T) map[string]string {
	t.Helper()
	k, _ := parse(t, "sandboxd")
	settings := k.Selected().Target.FieldByName("Settings")
	names := map[string]string{}
	for i := range settings.NumField() {
		for _, f := range k.Flags() {
			if f.Target.CanAddr() && f.Target.Addr().Pointer() == settings.Field(i).Addr().Pointer() {
				names[settings.Type().Field(i).Name] = f.Name
			}
		}
	}
	return names
}

// TestByteSize checks the sizes that users can write.
func TestByteSize(t *testing.T) {
	for text, want := range map[string]sandboxd.ByteSize{"0": 0, "1024": 1024, "20GB": 20 << 30, "500 mb": 500 << 20, "1.5GiB": 3 << 29} {
		if _, got := parse(t, "ls", "--max-disk="+text); got.MaxDisk != want {
			t.Errorf("--max-disk=%q is %d bytes, want %d", text, got.MaxDisk, want)
		}
	}
	for _, text := range []string{"-1", "many", "NaN", "1e300GB", ""} {
		if _, err := newParser(t.Context()).Parse([]string{"ls", "--max-disk=" + text}); err == nil {
			t.Errorf("--max-disk=%q is accepted, want an error", text)
		}
	}
}
