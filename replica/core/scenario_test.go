package core_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/holdfast-dev/holdfast/replica/core"
)

// The scenarios in testdata are read by people: a line is an event that a node is told, and
// the indented line below it is what the node answers and what follows.
//
//	> chunk epoch=1 from=100 bytes=20 safe=120 term=1
//	  counts; offset 120, safe 120; next: rest
//
// HOLDFAST_REWRITE=1 writes what follows anew, to be read and checked.
func TestScenarios(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scenarios", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := play(t, string(text))
			if os.Getenv("HOLDFAST_REWRITE") != "" {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if got != string(text) {
				t.Fatalf("it went otherwise:\n%s", got)
			}
		})
	}
}

func play(t *testing.T, text string) string {
	c := core.New(1)
	var out strings.Builder
	for _, line := range strings.SplitAfter(text, "\n") {
		event, ok := strings.CutPrefix(line, "> ")
		switch {
		case ok:
			out.WriteString(line)
			fmt.Fprintf(&out, "  %s\n", tell(t, c, strings.Fields(event)))
		case strings.HasPrefix(line, "  "):
		default:
			out.WriteString(line)
		}
	}
	return out.String()
}

type words map[string]string

func (w words) num(t *testing.T, name string) int64 {
	n, err := strconv.ParseInt(w[name], 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

func tell(t *testing.T, c *core.Core, fields []string) string {
	w := words{}
	for _, f := range fields[1:] {
		name, value, _ := strings.Cut(f, "=")
		w[name] = value
	}
	num := func(name string) int64 { return w.num(t, name) }
	said := ""
	switch fields[0] {
	case "started":
		c.EngineStarted()
	case "down":
		c.EngineDown()
	case "follows":
		c.EngineFollows()
	case "consumed":
		c.Consumed(num("offset"))
	case "promoted":
		c.Promoted(w["replid"], num("offset"))
	case "unsure":
		c.Unsure()
	case "proposed":
		c.Proposed(uint64(num("term")), num("offset"))
	case "leads":
		c.Leadership(uint64(num("term")), true)
	case "deposed":
		c.Leadership(uint64(num("term")), false)
	case "restored":
		c.Restored(core.State{Epochs: []core.Epoch{{Number: uint64(num("epoch")), Node: uint64(num("node")), ReplID: w["replid"],
			Start: num("start")}}, Offset: num("offset"), Safe: num("safe")})
	case "nothing":
		c.Applied(uint64(num("term")), core.Nothing{})
	case "chunk":
		said = counts(c.Applied(uint64(num("term")), core.Chunk{Epoch: uint64(num("epoch")), From: num("from"), Safe: num("safe"),
			Bytes: make([]byte, num("bytes"))}), c.State())
	case "epoch":
		said = counts(c.Applied(uint64(num("term")), core.Declaration{After: uint64(num("after")), Node: uint64(num("node")),
			ReplID: w["replid"], Start: num("start")}), c.State())
	case "resume":
		return c.Resume(w["replid"], num("offset")).String()
	default:
		t.Fatalf("unknown event %q", fields[0])
	}
	return said + "next: " + c.Next().String()
}

func counts(ok bool, s *core.State) string {
	if !ok {
		return "void; "
	}
	return fmt.Sprintf("counts; offset %d, safe %d; ", s.Offset, s.Safe)
}
