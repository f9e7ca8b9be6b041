package repl_test

import (
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/holdfast-dev/holdfast/replica/repl"
)

func encode(words ...string) string {
	var b strings.Builder
	b.WriteString("*" + strconv.Itoa(len(words)) + "\r\n")
	for _, w := range words {
		b.WriteString("$" + strconv.Itoa(len(w)) + "\r\n" + w + "\r\n")
	}
	return b.String()
}

func TestBoundaries(t *testing.T) {
	set := encode("SET", "k", "v")
	for _, c := range []struct {
		name, stream string
		safe         int
	}{
		{"nothing", "", -1},
		{"a command", set, len(set)},
		{"half a command", set[:7], -1},
		{"one and a half", set + set[:20], len(set)},
		{"an open transaction", set + encode("MULTI") + set, len(set)},
		{"a closed one", encode("MULTI") + set + encode("EXEC"), len(encode("MULTI") + set + encode("EXEC"))},
		{"names in any case", encode("multi") + set + encode("exec"), len(encode("MULTI") + set + encode("EXEC"))},
		{"a value that looks like one", encode("SET", "k", "MULTI"), len(encode("SET", "k", "MULTI"))},
		{"a value with line ends", encode("SET", "k", "*1\r\n$5\r\nMULTI\r\n"), len(encode("SET", "k", "*1\r\n$5\r\nMULTI\r\n"))},
		{"an empty value", encode("SET", "k", ""), len(encode("SET", "k", ""))},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s repl.Scanner
			if safe, err := s.Scan([]byte(c.stream)); err != nil || safe != c.safe {
				t.Fatalf("got %d, %v; want %d", safe, err, c.safe)
			}
		})
	}
}

func TestGarbageIsNoStream(t *testing.T) {
	for _, s := range []string{"GET k\r\n", "*x\r\n", "*0\r\n", "*1\r\n+OK\r\n", "*1\r\n$-1\r\n", strings.Repeat("1", 64), "*1\n"} {
		var scanner repl.Scanner
		if _, err := scanner.Scan([]byte(s)); err == nil {
			t.Errorf("%q was taken", s)
		}
	}
}

// However the bytes are cut, the boundaries are the same.
func TestAnyPieces(t *testing.T) {
	word := rapid.OneOf(rapid.SampledFrom([]string{"MULTI", "EXEC", "SET", "multi", "", "\r\n", "*1\r\n"}), rapid.String())
	rapid.Check(t, func(t *rapid.T) {
		var stream strings.Builder
		ends := map[int]bool{}
		open := false
		for range rapid.IntRange(1, 8).Draw(t, "commands") {
			words := rapid.SliceOfN(word, 1, 4).Draw(t, "words")
			stream.WriteString(encode(words...))
			switch strings.ToUpper(words[0]) {
			case "MULTI":
				open = true
			case "EXEC":
				open = false
			}
			ends[stream.Len()] = !open
		}
		all, last := stream.String(), -1
		var s repl.Scanner
		for at := 0; at < len(all); {
			n := rapid.IntRange(1, len(all)-at).Draw(t, "piece")
			safe, err := s.Scan([]byte(all[at : at+n]))
			if err != nil {
				t.Fatal(err)
			}
			if safe >= 0 {
				last = at + safe
			}
			at += n
			want := -1
			for end, safe := range ends {
				if safe && end <= at {
					want = max(want, end)
				}
			}
			if last != want {
				t.Fatalf("after %d bytes the last boundary is %d, not %d", at, last, want)
			}
		}
	})
}

func FuzzScanner(f *testing.F) {
	f.Add([]byte(encode("SET", "k", "v")), 3)
	f.Add([]byte("*1\r\n$5\r\nMULTI\r\n"), 5)
	f.Fuzz(func(t *testing.T, p []byte, cut int) {
		var whole, parts repl.Scanner
		want, err := whole.Scan(p)
		if cut < 0 || cut > len(p) || err != nil {
			return
		}
		first, err := parts.Scan(p[:cut])
		if err != nil {
			t.Fatal(err)
		}
		second, err := parts.Scan(p[cut:])
		if err != nil {
			t.Fatal(err)
		}
		got := first
		if second >= 0 {
			got = cut + second
		}
		if got != want {
			t.Fatalf("cut at %d: boundary %d, whole: %d", cut, got, want)
		}
	})
}

func BenchmarkScanner(b *testing.B) {
	for _, c := range []struct {
		name string
		size int
	}{{"small", 3}, {"64KiB", 64 << 10}} {
		b.Run(c.name, func(b *testing.B) {
			one := encode("SET", "key:000000012345", strings.Repeat("x", c.size))
			stream := []byte(strings.Repeat(one, 1+(1<<20)/len(one)))
			b.SetBytes(int64(len(stream)))
			var s repl.Scanner
			for b.Loop() {
				if _, err := s.Scan(stream); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)*float64(len(stream)/len(one))/b.Elapsed().Seconds(), "commands/s")
		})
	}
}
