package main

import (
	"net"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"
)

// Holders says which nodes to look at for which addresses.
type Holders struct {
	Nodes     []string `json:"nodes"`
	Addresses []string `json:"addresses"`
}

// Holding is a moment from which on an address was on the interface of these nodes.
type Holding struct {
	At      float64  `json:"at"`
	Address string   `json:"address"`
	Nodes   []string `json:"nodes"`
}

const (
	lookEvery = 50 * time.Millisecond
	sysSetns  = 308 // x86-64; the syscall package has no name for it
)

// watch records every change of who holds an address. A look enters the node's network namespace and leaves nothing
// open there, so that a node that is switched off is really gone.
func watch(what Holders, over <-chan struct{}, record func(Holding)) {
	// The thread ends with this goroutine: it is not unlocked, since it is in another namespace then.
	runtime.LockOSThread()
	before := map[string][]string{}
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		at, now := seconds(time.Now()), map[string][]string{}
		for _, node := range what.Nodes {
			for _, address := range addressesOf(node) {
				now[address] = append(now[address], node)
			}
		}
		for _, address := range what.Addresses {
			if known, seen := before[address]; !seen || !slices.Equal(known, now[address]) {
				before[address] = append([]string{}, now[address]...)
				record(Holding{at, address, before[address]})
			}
		}
		select {
		case <-over:
			return
		case <-ticker.C:
		}
	}
}

func addressesOf(node string) []string {
	namespace, err := os.Open("/run/netns/" + node)
	if err != nil {
		return nil
	}
	defer namespace.Close()
	if _, _, errno := syscall.RawSyscall(sysSetns, namespace.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
		return nil
	}
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return nil
	}
	found, _ := eth0.Addrs()
	addresses := []string{}
	for _, each := range found {
		if network, ok := each.(*net.IPNet); ok {
			addresses = append(addresses, network.IP.String())
		}
	}
	return addresses
}
