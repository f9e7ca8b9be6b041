package gate

import (
	"bufio"
	"errors"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// Whatever comes in whatever order: a round leaves only when its offset is committed and it was
// proven, and rounds leave in order.
func TestNothingLeavesEarly(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r rounds
		offsets, before, proven := map[uint64]int64{}, map[uint64]int64{}, map[uint64]bool{}
		committed, proposed, asked, left := int64(0), int64(0), int64(0), uint64(0)
		pending := uint64(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"ask", "answer", "commit", "propose", "verify"}).Draw(t, "step") {
			case "ask":
				if pending == 0 {
					pending, asked = r.ask(), proposed
				}
			case "answer":
				if pending > 0 {
					offset := rapid.Int64Range(0, 50).Draw(t, "offset")
					offsets[pending] = offset
					before[pending] = asked
					r.answer(pending, nil, offset, asked, proposed)
					pending = 0
				}
			case "commit":
				committed = max(committed, rapid.Int64Range(0, 50).Draw(t, "committed"))
				r.commit(committed)
			case "propose":
				proposed++
			case "verify":
				if r.last > 0 {
					id := rapid.Uint64Range(1, r.last).Draw(t, "id")
					for i := range id {
						proven[i+1] = true
					}
					r.verify(id)
				}
			}
			for _, round := range r.ready() {
				// Proven by messages, or because something is committed that the log got after the asking.
				ok := proven[round.id] || committed > before[round.id]
				if round.id != left+1 || !ok || offsets[round.id] > committed {
					t.Fatalf("round %d left: proven %v, asked at %d, offset %d, committed %d, left before: %d", round.id,
						proven[round.id], before[round.id], offsets[round.id], committed, left)
				}
				left = round.id
			}
		}
	})
}

func TestAnswersToROLE(t *testing.T) {
	const replicas = "*1\r\n*3\r\n$9\r\n127.0.0.1\r\n$4\r\n6380\r\n$3\r\n100\r\n"
	for _, c := range []struct {
		name, answer string
		offset       int64
		refused      bool // a whole answer that does not count
	}{
		{"a master", "*3\r\n$6\r\nmaster\r\n:42\r\n" + replicas, 42, false},
		{"one without replicas", "*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", 0, false},
		{"a replica", "*5\r\n$5\r\nslave\r\n$9\r\n127.0.0.1\r\n:6379\r\n$9\r\nconnected\r\n:42\r\n", 0, true},
		{"busy", "-BUSY Redis is busy running a script.\r\n", 0, true},
		{"no permission", "-NOPERM\r\n", 0, true},
		{"loading", "-LOADING\r\n", 0, true},
		{"an offset below zero", "*3\r\n$6\r\nmaster\r\n:-1\r\n*0\r\n", 0, true},
		{"an offset that is a string", "*3\r\n$6\r\nmaster\r\n$2\r\n42\r\n*0\r\n", 0, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := bufio.NewReader(strings.NewReader(c.answer + "+NEXT\r\n"))
			got, err := readRole(r)
			if errors.Is(err, errAnswer) != c.refused || err != nil && !c.refused || got != c.offset {
				t.Fatalf("%d, %v", got, err)
			}
			if rest, _ := r.ReadString('\n'); rest != "+NEXT\r\n" {
				t.Fatalf("the next answer is %q", rest)
			}
		})
	}
}

func FuzzRole(f *testing.F) {
	f.Add("*3\r\n$6\r\nmaster\r\n:42\r\n*0\r\n")
	f.Add("*3\r\n$6\r\nmaster\r\n:42\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n")
	f.Add("-BUSY\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		if offset, err := readRole(bufio.NewReader(strings.NewReader(s))); err == nil && offset < 0 {
			t.Fatal(offset)
		}
	})
}
