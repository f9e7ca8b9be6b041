package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"text/tabwriter"

	"github.com/holdfast-dev/holdfast/drill"
)

type drillCmd struct {
	Sale     drillSaleCmd     `cmd:"" help:"A sale: buyers, duplicates, cut connections, a bad provider, killed servers."`
	Restart  drillRestartCmd  `cmd:"" help:"Rolling restarts under load: no request fails."`
	Failover drillFailoverCmd `cmd:"" help:"Nodes under faults: nothing that was acknowledged is lost, every history is linearizable."`
	Watched  drillWatchedCmd  `cmd:"" hidden:"" passthrough:"all" help:"Run a node under the drill's eyes."`
	Backup   drillBackupCmd   `cmd:"" help:"Backups under load, a kill, and restores: nothing from before is lost."`
	Lock     drillLockCmd     `cmd:"" help:"Locks under faults: no late holder writes after a later one, and the lock is one."`
	Holder   drillHolderCmd   `cmd:"" hidden:"" help:"A process of the lock drill that leases names and writes."`
	Guarded  drillGuardedCmd  `cmd:"" hidden:"" help:"What the names of the lock drill guard: a table and files."`
	Limit    drillLimitCmd    `cmd:"" help:"Limits under faults: no interval admits more than a rule, and nobody waits for a store that is gone."`
	Caller   drillCallerCmd   `cmd:"" hidden:"" help:"A process of the limit drill that asks."`
}

type drillSaleCmd struct {
	Store   string   `help:"Store to use, under a prefix of its own; or redis-server, valkey-server (with ?class=b) or nodes (three of them), which the drill starts for itself. Default: file: in a temporary directory." env:"HOLDFAST_DRILL_STORE"`
	DB      string   `name:"db" help:"Database to use, in a schema of its own; or postgres, which the drill starts for itself. Default: SQLite in a temporary directory." env:"HOLDFAST_DRILL_DB"`
	Buyers  int      `help:"How many buyers." default:"400"`
	Stock   int      `help:"How many units." default:"100"`
	Servers int      `help:"How many servers; more than one needs --store and --db." default:"1"`
	Fault   []string `help:"Faults, with commas: kill-server (every server once); flush-store, kill-store, pause-store, with --store redis-server, valkey-server or nodes (of which the one that leads is killed or paused); stop-db and crowd-db (which takes all its connections), with --db postgres; full-disk, on the bare drill; slow-disk, with file: or SQLite; or none." default:"kill-server"`
	Rounds  int      `help:"Run it so often, with other seeds." default:"1"`
	Seed    uint64   `help:"Deals the same cards as the run that printed it; 0: a new one."`
	JSON    bool     `name:"json" help:"The last line is the report as JSON."`
	Binary  string   `hidden:"" type:"path" help:"The program to judge; default: this one."`
	OwnDisk string   `hidden:"" help:"The drill calls itself with this, in a mount namespace."`
}

func (c *drillSaleCmd) Run(e *env) error {
	opts := drill.SaleOptions{
		Store: c.Store, DB: c.DB, Buyers: c.Buyers, Stock: c.Stock, Servers: c.Servers,
		Faults: c.Fault, Seed: c.Seed, Binary: c.Binary, OwnDisk: c.OwnDisk, Progress: drillProgress(c.JSON && c.OwnDisk == ""),
	}
	if c.Rounds == 1 {
		report, err := drill.Sale(e.ctx, opts)
		return verdict(e.out, report, err, c.JSON)
	}
	report, err := drill.SaleRounds(e.ctx, opts, c.Rounds)
	return verdict(e.out, report, err, c.JSON)
}

type drillRestartCmd struct {
	Store  string `help:"Store to use, under a prefix of its own; or redis-server, valkey-server (with ?class=b) or nodes (three of them), which the drill starts for itself. Default: file: in a temporary directory." env:"HOLDFAST_DRILL_STORE"`
	DB     string `name:"db" help:"Database to use, in a schema of its own; or postgres, which the drill starts for itself. Default: SQLite in a temporary directory." env:"HOLDFAST_DRILL_DB"`
	Rounds int    `help:"How many restarts." default:"8"`
	Rate   int    `help:"Requests a second." default:"200"`
	Seed   uint64 `help:"Deals the same moments as the run that printed it; 0: new ones."`
	JSON   bool   `name:"json" help:"The last line is the report as JSON."`
	Binary string `hidden:"" type:"path" help:"The program to judge; default: this one."`
}

func (c *drillRestartCmd) Run(e *env) error {
	report, err := drill.Restart(e.ctx, drill.RestartOptions{
		Store: c.Store, DB: c.DB, Rounds: c.Rounds, Rate: c.Rate, Seed: c.Seed, Binary: c.Binary,
		Progress: drillProgress(c.JSON),
	})
	return verdict(e.out, report, err, c.JSON)
}

type drillBackupCmd struct {
	Rounds int    `help:"How many backups." default:"4"`
	Rate   int    `help:"Requests a second." default:"300"`
	Seed   uint64 `help:"Deals the same moments as the run that printed it; 0: new ones."`
	JSON   bool   `name:"json" help:"The last line is the report as JSON."`
	Binary string `hidden:"" type:"path" help:"The program to judge; default: this one."`
}

func (c *drillBackupCmd) Run(e *env) error {
	report, err := drill.Backup(e.ctx, drill.BackupOptions{
		Rounds: c.Rounds, Rate: c.Rate, Seed: c.Seed, Binary: c.Binary, Progress: drillProgress(c.JSON),
	})
	return verdict(e.out, report, err, c.JSON)
}

type drillFailoverCmd struct {
	Rounds  int      `help:"How many faults." default:"3"`
	Nodes   int      `help:"How many nodes: 3 or 5." default:"3"`
	Fault   []string `help:"Some faults, with commas; otherwise all that can happen here are in the deck."`
	Net     string   `help:"What connects the nodes: namespaces, proxies, or auto: namespaces where they can be had." default:"auto"`
	Against string   `help:"Run the same storm on this too, side by side: sentinel, an engine with replicas and Sentinel."`
	Engine  string   `help:"The engine's program; otherwise valkey-server or redis-server is looked for on PATH."`
	Seed    uint64   `help:"Deals the same faults, moments and commands as the run that printed it; 0: new ones."`
	JSON    bool     `name:"json" help:"The last line is the report as JSON."`
	Binary  string   `hidden:"" type:"path" help:"The program to judge; default: this one."`
	Apart   string   `hidden:"" help:"The drill calls itself with this, in namespaces of its own."`
}

func (c *drillFailoverCmd) Run(e *env) error {
	report, err := drill.Failover(e.ctx, drill.FailoverOptions{
		Rounds: c.Rounds, Nodes: c.Nodes, Faults: c.Fault, Net: c.Net, Against: c.Against, Engine: c.Engine, Seed: c.Seed,
		Binary: c.Binary, Apart: c.Apart, Progress: drillProgress(c.JSON && c.Apart == ""),
	})
	return verdict(e.out, report, err, c.JSON)
}

type drillWatchedCmd struct {
	Command []string `arg:"" optional:""`
}

func (c *drillWatchedCmd) Run() error {
	if len(c.Command) > 0 && c.Command[0] == "--" {
		c.Command = c.Command[1:]
	}
	if len(c.Command) == 0 {
		return errors.New("the drill calls itself with this")
	}
	return drill.Watched(c.Command)
}

// drillProgress is where progress goes: with --json only to a terminal.
func drillProgress(asJSON bool) io.Writer {
	if info, err := os.Stderr.Stat(); !asJSON || (err == nil && info.Mode()&os.ModeCharDevice != 0) {
		return os.Stderr
	}
	return nil
}

// verdict prints a report, and fails when the drill did.
func verdict(out io.Writer, r drill.Report, err error, asJSON bool) error {
	if err != nil {
		return err
	}
	if err := printReport(out, r, asJSON); err != nil {
		return err
	}
	if !r.Passed() {
		return errors.New("the drill failed")
	}
	return nil
}

func printReport(out io.Writer, r drill.Report, asJSON bool) error {
	if asJSON {
		line, err := json.Marshal(r)
		if err != nil {
			return err
		}
		fmt.Fprintln(out, string(line))
		return nil
	}
	if r.Against != nil {
		return printSides(out, r)
	}
	return printSide(out, r)
}

func printSide(out io.Writer, r drill.Report) error {
	for _, check := range r.Checks {
		fmt.Fprintf(out, "%-4s  %-24s  %s\n", okOrFail(check.OK), check.Name, check.Detail)
	}
	figures, err := json.Marshal(r.Figures)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%s  store class %s, seed %d\n%s\n", r.Verdict, r.Class, r.Seed, figures)
	if r.Kept != "" {
		fmt.Fprintf(out, "the evidence is in %s\n", r.Kept)
	}
	return nil
}

// printSides shows the drill and what it was compared with, then each check side by side.
func printSides(out io.Writer, r drill.Report) error {
	for _, side := range []drill.Report{r, *r.Against} {
		fmt.Fprintf(out, "== %s\n", side.Drill)
		if err := printSide(out, side); err != nil {
			return err
		}
		fmt.Fprintln(out)
	}
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "CHECK\t%s\t%s\n", r.Drill, r.Against.Drill)
	for _, check := range r.Checks {
		other := "-"
		for _, c := range r.Against.Checks {
			if c.Name == check.Name {
				other = okOrFail(c.OK)
			}
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", check.Name, okOrFail(check.OK), other)
	}
	fmt.Fprintf(w, "verdict\t%s\t%s\n", r.Verdict, r.Against.Verdict)
	mine, _ := r.Figures.(drill.FailoverFigures)
	theirs, _ := r.Against.Figures.(drill.FailoverFigures)
	fmt.Fprintf(w, "acknowledged elements that are missing\t%d of %d\t%d of %d\n", mine.Missing, mine.Added, theirs.Missing, theirs.Added)
	return w.Flush()
}

func okOrFail(ok bool) string {
	if ok {
		return "ok"
	}
	return "FAIL"
}
