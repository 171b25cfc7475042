package gvisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dormouse-sandbox/dormouse/sandboxd/engine/gvisor/folder"
	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// recover completes or undoes the operations that a killed daemon left unfinished:
//
//   - A sandbox with a checkpoint counts as suspended. If it still has processes, a suspend or a resume was interrupted,
//     and recover kills them. No client has received a result of work that they did after the checkpoint.
//   - An incomplete checkpoint is removed, and the sandbox keeps running.
//   - A sandbox whose processes have died becomes suspended with its fallback checkpoint, if it has one.
//   - A folder that was moved aside, and was not replaced, is moved back.
//   - Folders that were being removed, and unused pooled sandboxes, are removed.
//
// A sandbox that has died and has no fallback checkpoint stays, so that [Engine.List] reports it. A damaged sandbox
// stays for the same reason.
//
// If a step fails for a sandbox, on a full disk for example, recover adds a warning and continues with the other
// sandboxes: the next operation that needs the step repeats it. recover returns an error only if the folder of the
// sandboxes can't be read or ctx ends.
func (e *Engine) recover(ctx context.Context) error {
	ids, err := e.layout.IDs()
	if err != nil {
		return err
	}
	e.warn("interrupted moves of folders could not be finished", e.layout.FinishMoves())
	for _, id := range ids {
		e.warn(fmt.Sprintf("sandbox %s could not be repaired", id), e.recoverSandbox(ctx, id))
		if why := e.damage(id); why != "" {
			e.warn(fmt.Sprintf("sandbox %s is lost", id), errors.New(why))
		}
	}
	if folder.Exists(e.layout.Guest(e.guestName())) { // installGuest replaces the guest's files if they are incomplete
		_, err := e.installGuest()
		e.warn("the guest's files could not be checked", err)
	}
	e.warn("files that a killed daemon left were not removed", errors.Join(e.endPooled(ctx), e.clearTrash(), e.tidySnapshots(), e.prune(ids)))
	return ctx.Err()
}

// warn adds an error to the engine's warnings.
func (e *Engine) warn(what string, err error) {
	if err != nil {
		e.info.Warnings = append(e.info.Warnings, what+": "+err.Error())
	}
}

func (e *Engine) recoverSandbox(ctx context.Context, id sandbox.ID) error {
	var err error
	if e.layout.Suspended(id) {
		err = errors.Join(e.end(ctx, id), e.layout.Discard(e.layout.Fallback(id)))
	} else {
		err = e.useFallback(ctx, id)
	}
	for _, dir := range []string{e.layout.MakingCheckpoint(id), e.layout.PackingCheckpoint(id), e.layout.OpenCheckpoint(id)} {
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

func (e *Engine) clearTrash() error {
	for _, pattern := range []string{e.layout.Sandboxes() + "/.trash-*", filepath.Join(e.layout.Dir, "guest", ".making-*"),
		filepath.Join(e.layout.Dir, "bin", ".making-*")} {
		left, _ := filepath.Glob(pattern)
		for _, dir := range left {
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// prune removes each guest and each runsc that is needed neither by an existing sandbox nor for new ones. It removes
// nothing if a sandbox's record is damaged or can't be read.
func (e *Engine) prune(ids []sandbox.ID) error {
	needed := map[string]bool{"runsc-" + e.build: true}
	for _, id := range ids {
		r, err := e.layout.Find(id)
		if sandbox.KindOf(err) == sandbox.NotFound {
			continue // the creation of this sandbox was not completed
		}
		if err != nil {
			// The record of this sandbox is damaged or can't be read. The sandbox may need any guest and runsc, so
			// remove nothing.
			return nil
		}
		needed["runsc-"+r.Build], needed[r.Guest] = true, true
	}
	for _, dir := range []string{"bin", "guest"} {
		entries, err := os.ReadDir(filepath.Join(e.layout.Dir, dir))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			if name := entry.Name(); !needed[name] && !strings.HasPrefix(name, e.bundle.ID()+"-") {
				if err := os.RemoveAll(filepath.Join(e.layout.Dir, dir, name)); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
