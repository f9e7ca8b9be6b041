package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/holdfast-dev/holdfast/drill"
)

type drillCmd struct {
	Sale     drillSaleCmd     `cmd:"" help:"A sale: buyers, duplicates, cut connections, a bad provider, killed servers."`
	Restart  drillRestartCmd  `cmd:"" help:"Rolling restarts under load: no request fails."`
	Failover drillFailoverCmd `cmd:"" help:"Nodes under faults: nothing that was acknowledged is lost, every history is linearizable."`
	Backup   drillBackupCmd   `cmd:"" help:"Backups under load, a kill, and restores: nothing from before is lost."`
}

type drillSaleCmd struct {
	Store   string   `help:"Store to use, under a prefix of its own; or redis-server, valkey-server (with ?class=b) or nodes (three of them), which the drill starts for itself. Default: file: in a temporary directory." env:"HOLDFAST_DRILL_STORE"`
	DB      string   `name:"db" help:"Database to use, in a schema of its own; or postgres, which the drill starts for itself. Default: SQLite in a temporary directory." env:"HOLDFAST_DRILL_DB"`
	Buyers  int      `help:"How many buyers." default:"400"`
	Stock   int      `help:"How many units." default:"100"`
	Servers int      `help:"How many servers; more than one needs --store and --db." default:"1"`
	Fault   []string `help:"Faults, with commas: kill-server (every server once); flush-store, kill-store, pause-store, with --store redis-server, valkey-server or nodes (of which the one that leads is killed or paused); stop-db, with --db postgres; full-disk, on the bare drill; slow-disk, with file: or SQLite; or none." default:"kill-server"`
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
	Store  string `help:"Store to use, under a prefix of its own. Default: file: in a temporary directory." env:"HOLDFAST_DRILL_STORE"`
	DB     string `name:"db" help:"Database to use, in a schema of its own. Default: SQLite in a temporary directory." env:"HOLDFAST_DRILL_DB"`
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
	Rounds int      `help:"How many faults." default:"3"`
	Nodes  int      `help:"How many nodes: 3 or 5." default:"3"`
	Fault  []string `help:"Some faults, with commas; otherwise all are in the deck."`
	Engine string   `help:"The engine's program; otherwise valkey-server or redis-server is looked for on PATH."`
	Seed   uint64   `help:"Deals the same faults, moments and commands as the run that printed it; 0: new ones."`
	JSON   bool     `name:"json" help:"The last line is the report as JSON."`
	Binary string   `hidden:"" type:"path" help:"The program to judge; default: this one."`
}

func (c *drillFailoverCmd) Run(e *env) error {
	report, err := drill.Failover(e.ctx, drill.FailoverOptions{
		Rounds: c.Rounds, Nodes: c.Nodes, Faults: c.Fault, Engine: c.Engine, Seed: c.Seed, Binary: c.Binary, Progress: drillProgress(c.JSON),
	})
	return verdict(e.out, report, err, c.JSON)
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
	for _, check := range r.Checks {
		fmt.Fprintf(out, "%-4s  %-24s  %s\n", map[bool]string{true: "ok", false: "FAIL"}[check.OK], check.Name, check.Detail)
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
