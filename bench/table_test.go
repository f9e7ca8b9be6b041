package bench

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfast-dev/holdfast/sqldb/sqldbtest"
)

var (
	table  = flag.Bool("table", false, "measure, and print the table")
	rounds = flag.Int("rounds", 5, "how often each measurement takes its turn")
	turn   = flag.Duration("turn", time.Second, "how long each turn is")
	only   = flag.String("only", "", "measure groups whose name has this in it")
	row    = flag.String("row", "", "measure rows whose name has this in it")
	write  = flag.String("write", "", "write the tables into this file, between its marks, if all were measured")
)

func TestMain(m *testing.M) { sqldbtest.Main(m) }

// measure is one row: run works for about d and says how often a second it did what the group
// counts.
type measure struct {
	name string
	run  func(t *testing.T, d time.Duration) (rate float64)
	of   string // the row that this one is a share of; "" for none
	also string // and another one

	times int // in each round; 0: once
	rates []float64
}

// group is a table. open starts what its rows need, which ends with the test.
type group struct {
	title, unit, note string
	open              func(t *testing.T) []*measure
}

var groups = []group{storeGroup, lockGroup, handOffGroup, fairGroup, commandsGroup, herdGroup, handOffAllocs, limitGroup, limitFailedGroup, limitManyGroup, ledgerGroup, holdGroup, httpGroup, mixedGroup, overloadGroup, paymentGroup, paceGroup}

// TestTable is no test: it measures. Without -table it does one short round of everything, to
// show that it still can.
func TestTable(t *testing.T) {
	if !*table {
		*rounds, *turn = 1, 20*time.Millisecond
	}
	var out strings.Builder
	for _, g := range groups {
		if !strings.Contains(g.title, *only) {
			continue
		}
		t.Run(g.title, func(t *testing.T) {
			rows := slices.DeleteFunc(g.open(t), func(m *measure) bool { return !strings.Contains(m.name, *row) })
			for range *rounds {
				for _, m := range rows {
					for range max(1, m.times) {
						m.rates = append(m.rates, m.run(t, *turn))
					}
				}
			}
			text := g.text(rows)
			fmt.Print(text)
			out.WriteString(text)
		})
	}
	if part := *only != "" || *row != ""; part && *write != "" {
		fmt.Printf("\n%s stays as it is: not everything was measured\n", *write)
	} else if *write != "" && !t.Failed() {
		if err := replace(*write, out.String()); err != nil {
			t.Fatal(err)
		}
	}
}

// text is the group's table in Markdown.
func (g group) text(rows []*measure) string {
	medians := map[string]float64{}
	for _, m := range rows {
		slices.Sort(m.rates)
		medians[m.name] = m.rates[len(m.rates)/2]
	}
	var b strings.Builder
	fmt.Fprintf(&b, "\n### %s\n\n%s\n\n| what | %s, median | lowest | highest | share |\n|---|---|---|---|---|\n", g.title, g.note, g.unit)
	for _, m := range rows {
		var shares []string
		for _, of := range []string{m.of, m.also} {
			times := medians[m.name] / medians[of]
			switch {
			case medians[of] == 0: // none, or not measured
			case times > 2:
				shares = append(shares, fmt.Sprintf("%.0f × %s", times, of))
			default:
				shares = append(shares, fmt.Sprintf("%.0f%% of %s", 100*times, of))
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", m.name, digits(medians[m.name]), digits(m.rates[0]), digits(m.rates[len(m.rates)-1]), strings.Join(shares, ", "))
	}
	return b.String()
}

// digits keeps three significant ones.
func digits(f float64) string {
	n, unit := int64(f), int64(1)
	for n/unit >= 1000 {
		unit *= 10
	}
	n = (n + unit/2) / unit * unit
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

const begin, end = "<!-- measured: begin -->", "<!-- measured: end -->"

func replace(file, tables string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	a, b := bytes.Index(old, []byte(begin)), bytes.Index(old, []byte(end))
	if a < 0 || b < a {
		return fmt.Errorf("%s has no marks", file)
	}
	text := fmt.Sprintf("%s\n%s\n%s%s", old[:a+len(begin)], machine(), tables, old[b:])
	return os.WriteFile(file, []byte(text), 0o644)
}

// machine is where and when, and with which versions.
func machine() string {
	said := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			return name + " unknown"
		}
		return strings.TrimSpace(string(out))
	}
	cpu := "an unknown processor"
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		if _, model, ok := strings.Cut(string(info), "model name\t: "); ok {
			cpu, _, _ = strings.Cut(model, "\n")
		}
	}
	redis, _, _ := strings.Cut(said("redis-server", "--version"), " sha=")
	kernel, _, _ := strings.Cut(said("uname", "-r"), "-")
	return fmt.Sprintf("%s; %d cores of %s; Linux %s; %s; %s; PostgreSQL %s.\n%d rounds of %s.",
		time.Now().UTC().Format("2006-01-02"), runtime.NumCPU(), cpu, kernel, runtime.Version(), redis,
		postgres(), *rounds, *turn)
}

func postgres() string {
	names, err := os.ReadDir("/usr/lib/postgresql")
	if err != nil || len(names) == 0 {
		return "unknown"
	}
	return names[len(names)-1].Name()
}
