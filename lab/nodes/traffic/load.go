package main

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Load is a closed loop: so many connections at a time, each with one request, and a new one as soon as one has ended.
type Load struct {
	Address     string   `json:"address"`
	Sources     []string `json:"sources"`
	Connections int      `json:"connections"`
	Seconds     float64  `json:"seconds"`
}

// LoadResult is what became of it. Busy and Kernel are seconds of the machine's processors while it lasted: all but idle ones, and those of the
// kernel among them. What the kernel does for packets counts for no process and no node, only for the machine.
type LoadResult struct {
	Requests int            `json:"requests"`
	Failures map[string]int `json:"failures"`
	Servers  map[string]int `json:"servers"`
	Seconds  float64        `json:"seconds"`
	Busy     float64        `json:"busy"`
	Kernel   float64        `json:"kernel"`
}

const (
	// More connections than are made in a second. With 60 addresses a port comes again after four minutes, when no node remembers it.
	loadPerSecond = 4000
	// Of /proc/stat: USER_HZ, which is 100 on every Linux.
	ticksPerSecond = 100
)

func load(given string) error {
	var config Load
	if err := json.Unmarshal([]byte(given), &config); err != nil {
		return fmt.Errorf("CONFIG: %w", err)
	}
	// The client must not be what limits the requests.
	runtime.GOMAXPROCS(runtime.NumCPU())
	var (
		all    sync.WaitGroup
		lock   sync.Mutex
		next   = source(config.Sources, loadPerSecond)
		kind   = Requests{Address: config.Address}
		result = LoadResult{Failures: map[string]int{}, Servers: map[string]int{}}
		began  = time.Now()
		end    = began.Add(time.Duration(config.Seconds * float64(time.Second)))
	)
	busyBefore, kernelBefore, err := processors()
	if err != nil {
		return err
	}
	for range config.Connections {
		all.Add(1)
		go func() {
			defer all.Done()
			for time.Now().Before(end) {
				server, err := ask(kind, next(), time.Now(), func() {})
				lock.Lock()
				result.Requests++
				if err != nil {
					result.Failures[word(err)]++
				} else {
					result.Servers[server]++
				}
				lock.Unlock()
			}
		}()
	}
	all.Wait()
	busy, kernel, err := processors()
	if err != nil {
		return err
	}
	result.Seconds, result.Busy, result.Kernel = time.Since(began).Seconds(), busy-busyBefore, kernel-kernelBefore
	return json.NewEncoder(os.Stdout).Encode(result)
}

// processors gives the seconds since the boot in which the machine's processors were busy, and those of the kernel among them.
func processors() (busy, kernel float64, err error) {
	stat, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, 0, err
	}
	line, _, _ := strings.Cut(string(stat), "\n")
	// cpu user nice system idle iowait irq softirq steal: guests are in user already.
	fields := strings.Fields(line)
	if len(fields) < 8 {
		return 0, 0, fmt.Errorf("/proc/stat: %q", line)
	}
	var ticks [7]float64
	for index := range ticks {
		if ticks[index], err = strconv.ParseFloat(fields[index+1], 64); err != nil {
			return 0, 0, err
		}
	}
	kernel = ticks[2] + ticks[5] + ticks[6]
	return (ticks[0] + ticks[1] + kernel) / ticksPerSecond, kernel / ticksPerSecond, nil
}
