package guest

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/dormouse-sandbox/dormouse/sandboxd/sandbox"
)

func TestHostileExecutionsAreRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no state":                          `{"language":"python"}`,
		"an unknown state":                  `{"language":"python","state":"won"}`,
		"a state that only the daemon sets": `{"language":"python","state":"lost"}`,
		"no language":                       `{"state":"succeeded"}`,
		"another language":                  `{"state":"succeeded","language":"cobol"}`,
	} {
		var e sandbox.Execution
		if err := json.Unmarshal([]byte(text), &e); err != nil {
			t.Fatal(err)
		}
		if err := sanitizeExecution(&e); err == nil {
			t.Errorf("sanitizeExecution(%s) = nil, want an error", name)
		}
	}
}

func TestHostileFieldsAreNormalised(t *testing.T) {
	e := sandbox.Execution{
		Language: "py", State: sandbox.ExecKernelDied, KernelEpoch: -1, OutputBytes: -5, StoppedBy: "SIGINT; rm",
		CreateTime: time.Date(-5, 1, 1, 0, 0, 0, 0, time.UTC),
		Death:      &sandbox.KernelDeath{Cause: "magic", Signal: "<b>", Detail: strings.Repeat("ä", 5000)},
		Interlude:  &sandbox.Interlude{LateBytes: -7, LateText: strings.Repeat("ä", 5000), AsOf: time.Date(99999, 1, 1, 0, 0, 0, 0, time.UTC), Death: &sandbox.KernelDeath{Cause: "x"}},
		Error:      &sandbox.CodeError{Name: "E\x1b[31m\nForged: line"},
		Files:      []sandbox.File{{Path: "../../etc/passwd"}, {Path: "/etc/passwd"}, {Path: "ok", SHA256: "nope", Size: 1}, {Path: "neg", Size: -1}},
		Events: []sandbox.Event{
			{Seq: 1, Type: "exploit"},
			{Seq: 2, Type: sandbox.EventStdout, Text: "x", File: &sandbox.File{Path: "/etc"}, State: "won"},
			{Seq: 3, Type: sandbox.EventDisplay, Data: map[string]string{"text/html": "<b>", "../x": "y", "image/png\n": "z"}},
			{Seq: -4, Type: sandbox.EventStdout},
		},
	}
	if err := sanitizeExecution(&e); err != nil {
		t.Fatal(err)
	}
	want := sandbox.Execution{
		Language: sandbox.Python, State: sandbox.ExecKernelDied,
		Death:     &sandbox.KernelDeath{Cause: sandbox.DiedExit, Detail: strings.Repeat("ä", maxSentence/2)},
		Interlude: &sandbox.Interlude{LateBytes: sandbox.MaxLateText, LateText: strings.Repeat("ä", sandbox.MaxLateText/2), Death: &sandbox.KernelDeath{Cause: sandbox.DiedExit}},
		Error:     &sandbox.CodeError{Name: "E [31m Forged: line"},
		Files:     []sandbox.File{{Path: "ok", Size: 1}},
		Events: []sandbox.Event{
			{Seq: 2, Type: sandbox.EventStdout, Text: "x"},
			{Seq: 3, Type: sandbox.EventDisplay, Data: map[string]string{"text/html": "<b>"}},
		},
	}
	if !reflect.DeepEqual(e, want) {
		t.Errorf("got  %+v\nwant %+v", e, want)
	}
}

// FuzzSanitize checks that every sanitized execution can be encoded as JSON, and that sanitizing it again does not
// change it.
func FuzzSanitize(f *testing.F) {
	f.Add([]byte(`{"state":"succeeded","language":"python","events":[{"seq":1,"type":"stdout","text":"x"}],"files":[{"path":"a"}]}`))
	f.Add([]byte(`{"state":"kernel_died","language":"js","death":{"cause":"x"},"create_time":"9999-12-31T23:59:59-23:00"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var e sandbox.Execution
		if json.Unmarshal(data, &e) != nil || sanitizeExecution(&e) != nil {
			return
		}
		once, err := json.Marshal(e)
		if err != nil {
			t.Fatalf("the sanitized execution can't be encoded: %v", err)
		}
		if err := sanitizeExecution(&e); err != nil {
			t.Fatal(err)
		}
		if twice, _ := json.Marshal(e); string(twice) != string(once) {
			t.Fatalf("sanitizing twice = %s, want %s", twice, once)
		}
	})
}

func FuzzEventLine(f *testing.F) {
	f.Add([]byte(`{"seq":1,"type":"display","data":{"image/png":"aGk="}}`))
	f.Add([]byte(`{"seq":2,"type":"omitted","bytes":5,"reason":"limit"}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var e sandbox.Event
		if json.Unmarshal(line, &e) != nil || !sanitizeEvent(&e) {
			return
		}
		if _, err := json.Marshal(e); err != nil {
			t.Fatal(err)
		}
		if e.Seq < 0 || e.Offset < 0 || e.Bytes < 0 || e.File != nil && strings.HasPrefix(e.File.Path, "/") {
			t.Fatalf("sanitizeEvent() = %+v, want no negative number and no absolute path", e)
		}
	})
}
