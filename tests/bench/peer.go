// Small Go programs in one file, for the bench: what the wrapper is measured against, and services.
//
//	peer proxy LISTEN UPSTREAM                net/http/httputil.ReverseProxy with its usual set-up
//	peer keeper LISTEN UPSTREAM COMMAND...    the same, and the service as its child; HUP restarts the service
//	peer service LISTEN                       /slow (100 ms), /upload (counts the body), /events (time stamps), / (2 bytes)
//	peer late LISTEN SECONDS LOG              listens SECONDS after its start, appends each request's query to LOG
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func proxy(upstream string) http.Handler {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	// The default of 2 kept connections a host makes Go reconnect all the time; nobody's proxy should be measured like that.
	transport.MaxIdleConns = 0
	transport.MaxIdleConnsPerHost = 1024
	transport.DisableCompression = true
	target := &url.URL{Scheme: "http", Host: upstream}
	return &httputil.ReverseProxy{
		Transport: transport,
		Rewrite: func(request *httputil.ProxyRequest) {
			request.SetURL(target)
			request.SetXForwarded()
			request.Out.Host = request.In.Host
		},
	}
}

func service() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(answer http.ResponseWriter, _ *http.Request) { io.WriteString(answer, "ok") })
	mux.HandleFunc("/slow", func(answer http.ResponseWriter, _ *http.Request) {
		time.Sleep(100 * time.Millisecond)
		io.WriteString(answer, "ok")
	})
	mux.HandleFunc("/upload", func(answer http.ResponseWriter, request *http.Request) {
		count, _ := io.Copy(io.Discard, request.Body)
		fmt.Fprint(answer, count)
	})
	mux.HandleFunc("/events", events)
	return mux
}

// Every 5 ms one event that holds the time it was written at, in ns since the epoch.
func events(answer http.ResponseWriter, request *http.Request) {
	answer.Header().Set("Content-Type", "text/event-stream")
	flusher := answer.(http.Flusher)
	flusher.Flush()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-request.Context().Done():
			return
		case <-ticker.C:
			fmt.Fprintf(answer, "data: %d\n\n", time.Now().UnixNano())
			flusher.Flush()
		}
	}
}

// Answers what it has begun before it goes, as a good service does.
func late(listen string, seconds string, path string) {
	wait, _ := strconv.Atoi(seconds)
	time.Sleep(time.Duration(wait) * time.Second)
	seen, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	server := &http.Server{Addr: listen, Handler: http.HandlerFunc(func(answer http.ResponseWriter, request *http.Request) {
		if request.URL.RawQuery != "" {
			seen.WriteString(request.URL.RawQuery + "\n")
		}
		io.WriteString(answer, "ok")
	})}
	stopped := make(chan struct{})
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		<-signals
		server.Shutdown(context.Background())
		close(stopped)
	}()
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-stopped
}

// The service as a child, stopped and started again on HUP.
func keep(command []string) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGHUP, syscall.SIGTERM)
	for {
		child := exec.Command(command[0], command[1:]...)
		if err := child.Start(); err != nil {
			log.Fatal(err)
		}
		got := <-signals
		child.Process.Signal(syscall.SIGTERM)
		child.Wait()
		if got == syscall.SIGTERM {
			os.Exit(0)
		}
	}
}

func main() {
	handler := service()
	switch os.Args[1] {
	case "late":
		late(os.Args[2], os.Args[3], os.Args[4])
		return
	case "keeper":
		go keep(os.Args[4:])
		handler = proxy(os.Args[3])
	case "proxy":
		handler = proxy(os.Args[3])
	}
	log.Fatal(http.ListenAndServe(os.Args[2], handler))
}
