// A folder for the files of one test program: in $TMPDIR, else in build/, else in /tmp. remove_temporary() takes it away.

#ifndef TEMPORARY_H
#define TEMPORARY_H

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char temporary_folder[256];

static const char *make_temporary(void)
{
    if (temporary_folder[0]) return temporary_folder;
    const char *set = getenv("TMPDIR");
    const char *bases[3] = { set && *set ? set : "build", "build", "/tmp" };
    for (int i = 0; i < 3; i++) {
        snprintf(temporary_folder, sizeof temporary_folder, "%.200s/tinytl.XXXXXX", bases[i]);
        if (mkdtemp(temporary_folder)) return temporary_folder;
    }
    fprintf(stderr, "no folder for temporary files\n");
    exit(1);
}

// The path of a file in it; up to eight are valid at a time.
static const char *temporary_path(const char *name)
{
    static char paths[8][512];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", make_temporary(), name);
    return path;
}

static void remove_folder(const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;
    while (folder && (entry = readdir(folder)) != NULL) {
        char inside[1024];
        struct stat info;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..")) continue;
        snprintf(inside, sizeof inside, "%s/%s", path, entry->d_name);
        if (lstat(inside, &info) == 0 && S_ISDIR(info.st_mode)) remove_folder(inside);
        else unlink(inside);
    }
    if (folder) closedir(folder);
    rmdir(path);
}

static void remove_temporary(void)
{
    if (temporary_folder[0]) remove_folder(temporary_folder);
    temporary_folder[0] = 0;
}

#endif
