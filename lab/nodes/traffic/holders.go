package main

import (
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
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

// Table is a moment from which on a node's kernel had so many real servers with a weight in its table.
type Table struct {
	At   float64 `json:"at"`
	Node string  `json:"node"`
	Live int     `json:"live"`
}

const (
	sysSetns      = 308 // x86-64; the syscall package has no name for it
	newAddresses  = 1<<(syscall.RTNLGRP_IPV4_IFADDR-1) | 1<<(syscall.RTNLGRP_IPV6_IFADDR-1)
	lookAgain     = 100 * time.Millisecond
	loopbackIndex = 1
)

// watch records every change of who holds an address, as the kernels' own news tell it, and of how many servers are live in whose table.
func watch(what Holders, over <-chan struct{}, record func(Holding), recordTable func(Table)) {
	var (
		lock  sync.Mutex
		nodes sync.WaitGroup
		held  = map[string][]string{}
	)
	for _, address := range what.Addresses {
		held[address] = []string{}
		record(Holding{seconds(time.Now()), address, []string{}})
	}
	changed := func(node, address string, has bool) {
		lock.Lock()
		defer lock.Unlock()
		holders, asked := held[address]
		if !asked || slices.Contains(holders, node) == has {
			return
		}
		holders = slices.DeleteFunc(slices.Clone(holders), func(other string) bool { return other == node })
		if has {
			holders = append(holders, node)
		}
		held[address] = holders
		record(Holding{seconds(time.Now()), address, holders})
	}
	for _, node := range what.Nodes {
		nodes.Add(1)
		go func() {
			defer nodes.Done()
			// The thread ends with this goroutine: it is not unlocked, since it is in another namespace then.
			runtime.LockOSThread()
			known := -1
			count := func(now int) {
				if now != known {
					known = now
					recordTable(Table{seconds(time.Now()), node, now})
				}
			}
			for !ended(over) {
				follow(node, over, func(address string, has bool) { changed(node, address, has) }, func() { count(live()) })
				if ended(over) {
					return
				}
				for _, address := range what.Addresses {
					changed(node, address, false)
				}
				count(0)
				time.Sleep(lookAgain)
			}
		}()
	}
	nodes.Wait()
}

// follow tells of a node's addresses, and looks at its table every so often, until the node is switched off, which takes its namespace away.
func follow(node string, over <-chan struct{}, tell func(address string, has bool), look func()) {
	path := "/run/netns/" + node
	namespace, err := os.Open(path)
	if err != nil {
		return
	}
	defer namespace.Close()
	opened, err := namespace.Stat()
	if err != nil {
		return
	}
	if _, _, errno := syscall.RawSyscall(sysSetns, namespace.Fd(), syscall.CLONE_NEWNET, 0); errno != 0 {
		return
	}
	socket, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW, syscall.NETLINK_ROUTE)
	if err != nil {
		return
	}
	defer syscall.Close(socket)
	patience := syscall.NsecToTimeval(int64(lookAgain))
	if syscall.Bind(socket, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: newAddresses}) != nil ||
		syscall.SetsockoptTimeval(socket, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &patience) != nil {
		return
	}
	if known, err := syscall.NetlinkRIB(syscall.RTM_GETADDR, syscall.AF_UNSPEC); err == nil {
		read(known, tell)
	}
	buffer := make([]byte, 1<<16)
	for !ended(over) {
		look()
		length, _, err := syscall.Recvfrom(socket, buffer, 0)
		if err == nil {
			read(buffer[:length], tell)
			continue
		}
		if now, err := os.Stat(path); err != nil || !os.SameFile(opened, now) {
			return
		}
	}
}

// live counts the real servers with a weight in the table of this thread's namespace, of virtual servers with a mark: those with an address
// are another program's.
func live() int {
	file, err := os.Open("/proc/thread-self/net/ip_vs")
	if err != nil {
		return 0
	}
	defer file.Close()
	// In one piece: the kernel loses its place between two reads.
	table := make([]byte, 1<<16)
	length, _ := file.Read(table)
	return count(string(table[:length]))
}

func count(table string) int {
	live, ours := 0, false
	for line := range strings.Lines(table) {
		// FWM MARK SCHEDULER ..., or TCP ADDRESS:PORT SCHEDULER ..., and under it -> ADDRESS:PORT METHOD WEIGHT ...
		words := strings.Fields(line)
		if len(words) > 0 && words[0] != "->" {
			ours = words[0] == "FWM"
		} else if ours && len(words) > 3 && words[3] != "0" {
			live++
		}
	}
	return live
}

func read(news []byte, tell func(address string, has bool)) {
	messages, err := syscall.ParseNetlinkMessage(news)
	if err != nil {
		return
	}
	for _, message := range messages {
		if message.Header.Type != syscall.RTM_NEWADDR && message.Header.Type != syscall.RTM_DELADDR {
			continue
		}
		// Every node has the addresses on lo; who has one on its interface holds it.
		about := (*syscall.IfAddrmsg)(unsafe.Pointer(&message.Data[0]))
		if about.Index == loopbackIndex {
			continue
		}
		// Of an IPv6 address without a peer the kernel tells no local one.
		local := uint16(syscall.IFA_LOCAL)
		if about.Family == syscall.AF_INET6 {
			local = syscall.IFA_ADDRESS
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(&message)
		if err != nil {
			continue
		}
		for _, attribute := range attributes {
			if attribute.Attr.Type == local {
				tell(net.IP(attribute.Value).String(), message.Header.Type == syscall.RTM_NEWADDR)
			}
		}
	}
}

func ended(over <-chan struct{}) bool {
	select {
	case <-over:
		return true
	default:
		return false
	}
}
