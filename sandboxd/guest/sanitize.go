package guest

import (
	"errors"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

// The functions in this file make sure that data from a guest is well-formed, bounded and of a known kind. They can't
// check whether the data is true. For the output of the sandbox's own code, that does not matter.

// Limits of strings and lists from a guest. Longer ones are cut.
const (
	maxSentence   = 2 << 10
	maxMessage    = 32 << 10
	maxTraceback  = 128 << 10
	maxListed     = 20_000 // files in one answer
	maxKernels    = 10
	maxExecutions = 1_000 // queued and running executions in one status
	maxChanged    = 1_000 // files changed by one execution
)

var (
	signalName = regexp.MustCompile(`^SIG[A-Z0-9+]{1,12}$`)
	hexSum     = regexp.MustCompile(`^[0-9a-f]{64}$`)
	mimeType   = regexp.MustCompile(`^[a-z][a-z0-9.+-]{0,60}/[A-Za-z0-9.+*;=-]{1,100}$`)
)

func sanitizeStatus(s *Status) {
	s.BuildID = cut(s.BuildID, 64)
	s.Usage.MemoryBytes = max(s.Usage.MemoryBytes, 0)
	s.Usage.CPUSeconds = max(s.Usage.CPUSeconds, 0)
	s.Usage.Processes = max(s.Usage.Processes, 0)
	s.Usage.WorkspaceBytes = max(s.Usage.WorkspaceBytes, 0)
	s.DroppedLate, s.DroppedBad = max(s.DroppedLate, 0), max(s.DroppedBad, 0)

	kernels := s.Kernels[:0]
	for _, k := range s.Kernels[:min(len(s.Kernels), maxKernels)] {
		lang, err := sandbox.ParseLanguage(string(k.Language))
		if err != nil || lang == "" {
			continue
		}
		k.Language = lang
		switch k.State {
		case sandbox.KernelStarting, sandbox.KernelIdle, sandbox.KernelBusy, sandbox.KernelStopped:
		default:
			k.State = sandbox.KernelStopped
		}
		k.Epoch, k.MemoryBytes = max(k.Epoch, 0), max(k.MemoryBytes, 0)
		k.Version, k.Runner = oneLine(k.Version), oneLine(k.Runner)
		sanitizeDeath(k.LastDeath)
		kernels = append(kernels, k)
	}
	s.Kernels = kernels

	executions := s.Executions[:0]
	for _, e := range s.Executions[:min(len(s.Executions), maxExecutions)] {
		id, err := sandbox.ParseExecutionID(string(e.ID))
		if err != nil || sanitizeExecution(&e) != nil || e.State.Final() {
			continue
		}
		e.ID, e.SandboxID, e.Events = id, "", nil
		executions = append(executions, e)
	}
	s.Executions = executions
}

// sanitizeExecution sanitizes e. It returns an error if the state or the language of e is unknown, because the daemon
// can't act on such an execution.
func sanitizeExecution(e *sandbox.Execution) error {
	if !knownState(e.State) {
		return sandbox.Errorf(sandbox.Unavailable, "the sandbox's guest answered with an execution in an unknown state")
	}
	lang, err := sandbox.ParseLanguage(string(e.Language))
	if err != nil || lang == "" {
		return sandbox.Errorf(sandbox.Unavailable, "the sandbox's guest answered with an execution in an unknown language")
	}
	e.Language = lang
	e.Reason = cut(e.Reason, maxSentence)
	e.KernelEpoch = max(e.KernelEpoch, 0)
	e.TimeoutSeconds = min(max(e.TimeoutSeconds, 0), sandbox.MaxTimeoutSeconds)
	e.CreateTime, e.StartTime, e.EndTime = sanitizeTime(e.CreateTime), sanitizeTime(e.StartTime), sanitizeTime(e.EndTime)
	if e.StoppedBy != "" && !signalName.MatchString(e.StoppedBy) {
		e.StoppedBy = ""
	}
	if err := e.Error; err != nil {
		err.Name = cut(oneLine(err.Name), 256)
		err.Message = cut(err.Message, maxMessage)
		err.Traceback = cut(err.Traceback, maxTraceback)
	}
	sanitizeDeath(e.Death)
	e.Interlude = sanitizeInterlude(e.Interlude)
	e.Files = sanitizeFiles(e.Files[:min(len(e.Files), maxChanged)])
	e.FilesOmitted = sanitizeOmitted(e.FilesOmitted[:min(len(e.FilesOmitted), maxChanged)])
	e.OutputBytes, e.NextOffset = max(e.OutputBytes, 0), max(e.NextOffset, 0)
	// The guest enforces the same limits, but a compromised guest may not.
	events, values, errors := e.Events[:0], 0, 0
	for _, ev := range e.Events {
		switch ev.Type {
		case sandbox.EventDisplay, sandbox.EventResult:
			values++
		case sandbox.EventError:
			errors++
		}
		if values <= sandbox.MaxValues+2 && errors <= sandbox.MaxErrors+1 && sanitizeEvent(&ev) {
			events = append(events, ev)
		}
	}
	e.Events = events
	return nil
}

func sanitizeInterlude(i *sandbox.Interlude) *sandbox.Interlude {
	if i == nil {
		return nil
	}
	i.LateText = cut(i.LateText, sandbox.MaxLateText)
	i.LateBytes = max(i.LateBytes, int64(len(i.LateText)))
	i.AsOf = sanitizeTime(i.AsOf)
	sanitizeDeath(i.Death)
	if *i == (sandbox.Interlude{}) {
		return nil
	}
	return i
}

func sanitizeDeath(d *sandbox.KernelDeath) {
	if d == nil {
		return
	}
	switch d.Cause {
	case sandbox.DiedExit, sandbox.DiedSignal, sandbox.DiedOutOfMemory, sandbox.DiedStopped, sandbox.DiedStart:
	default:
		d.Cause = sandbox.DiedExit
	}
	if d.Signal != "" && !signalName.MatchString(d.Signal) {
		d.Signal = ""
	}
	d.Detail = cut(d.Detail, maxSentence)
	d.Time = sanitizeTime(d.Time)
}

// sanitizeEvent reports whether the event is valid and of a known type. It clears all fields that do not belong to
// that type.
func sanitizeEvent(e *sandbox.Event) bool {
	clean := sandbox.Event{Seq: e.Seq, Type: e.Type, Time: sanitizeTime(e.Time), Offset: e.Offset}
	if e.Seq < 0 || e.Offset < 0 {
		return false
	}
	switch e.Type {
	case sandbox.EventStdout, sandbox.EventStderr:
		clean.Text = cut(e.Text, maxEventLine)
	case sandbox.EventDisplay, sandbox.EventResult:
		clean.Data = make(map[string]string, len(e.Data))
		for mime, value := range e.Data {
			if mimeType.MatchString(mime) {
				clean.Data[mime] = strings.ToValidUTF8(value, "\uFFFD")
			}
		}
	case sandbox.EventError:
	case sandbox.EventOmitted:
		if e.Reason != sandbox.OmittedByWindow && e.Reason != sandbox.OmittedByLimit {
			return false
		}
		clean.Bytes, clean.Reason = max(e.Bytes, 0), e.Reason
		clean.Text = cut(e.Text, maxSentence)
	case sandbox.EventStatus:
		if !knownState(e.State) {
			return false
		}
		clean.State = e.State
	case sandbox.EventFile:
		if e.File == nil {
			return false
		}
		files := sanitizeFiles([]sandbox.File{*e.File})
		if len(files) == 0 {
			return false
		}
		clean.File = &files[0]
	default:
		return false
	}
	*e = clean
	return true
}

// knownState reports whether a guest may return this state. Only the daemon sets "lost".
func knownState(s sandbox.ExecutionState) bool {
	switch s {
	case sandbox.ExecQueued, sandbox.ExecRunning, sandbox.ExecSucceeded, sandbox.ExecFailed,
		sandbox.ExecInterrupted, sandbox.ExecTimedOut, sandbox.ExecKernelDied:
		return true
	}
	return false
}

func sanitizeFiles(in []sandbox.File) []sandbox.File {
	var out []sandbox.File
	for _, f := range in[:min(len(in), maxListed)] {
		path, err := sandbox.ParsePath(f.Path)
		if err != nil || f.Size < 0 {
			continue
		}
		if f.SHA256 != "" && !hexSum.MatchString(f.SHA256) {
			f.SHA256 = ""
		}
		out = append(out, sandbox.File{Path: string(path), Size: f.Size, SHA256: f.SHA256, ModTime: sanitizeTime(f.ModTime)})
	}
	return out
}

func sanitizeOmitted(in []sandbox.OmittedFile) []sandbox.OmittedFile {
	var out []sandbox.OmittedFile
	for _, f := range in[:min(len(in), maxListed)] {
		out = append(out, sandbox.OmittedFile{Path: oneLine(cut(f.Path, maxSentence)), Reason: oneLine(cut(f.Reason, maxSentence))})
	}
	return out
}

func sanitizeError(err error) error {
	if e, ok := errors.AsType[*sandbox.Error](err); ok {
		e.Message = cut(oneLine(e.Message), maxSentence)
	}
	return err
}

// sanitizeTime returns t in UTC, or the zero time if its year is not between 1970 and 9000, because JSON can't encode
// every year.
func sanitizeTime(t time.Time) time.Time {
	t = t.UTC()
	if y := t.Year(); y < 1970 || y > 9000 {
		return time.Time{}
	}
	return t
}

// cut returns s as valid UTF-8 with at most n bytes. It cuts between characters.
func cut(s string, n int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// oneLine replaces control characters with spaces, because control characters could overwrite parts of a terminal or
// forge lines. It also cuts s to maxSentence bytes.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r >= 0x7f && r < 0xa0 {
			return ' '
		}
		return r
	}, cut(s, maxSentence))
}
