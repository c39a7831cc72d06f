-- Written by one MySQL 9.7 server, one binlog per section; see README.md.
-- section endings
CREATE DATABASE shop;
USE shop;
CREATE TABLE item (id INT PRIMARY KEY AUTO_INCREMENT, name VARCHAR(200), price DECIMAL(12,4), doc JSON) ENGINE=InnoDB;
CREATE TABLE legacy (id INT, note TEXT) ENGINE=MyISAM;
INSERT INTO item (name, price, doc) VALUES ('one', 1.5, '{"a": 1, "b": [1, 2, 3]}'), ('two', 2.5, NULL), ('three', NULL, '[]');
UPDATE item SET price = 9 WHERE id <= 2;
DELETE FROM item WHERE id = 3;
INSERT INTO legacy VALUES (1, 'not transactional'), (2, NULL);
BEGIN;
INSERT INTO item (name) VALUES ('kept');
SAVEPOINT s1;
INSERT INTO item (name) VALUES ('rolled back to the savepoint');
ROLLBACK TO s1;
SAVEPOINT s2;
INSERT INTO item (name) VALUES ('kept too');
COMMIT;
XA START 'committed', 'b', 7;
INSERT INTO item (name) VALUES ('xa');
XA END 'committed', 'b', 7;
XA PREPARE 'committed', 'b', 7;
XA COMMIT 'committed', 'b', 7;
XA START 'undone';
INSERT INTO item (name) VALUES ('xa 2');
XA END 'undone';
XA PREPARE 'undone';
XA ROLLBACK 'undone';
XA START 'onephase';
INSERT INTO item (name) VALUES ('xa 3');
XA END 'onephase';
XA COMMIT 'onephase' ONE PHASE;
SET gtid_next = '11111111-2222-3333-4444-555555555555:7';
BEGIN;
COMMIT;
SET gtid_next = 'AUTOMATIC';
CREATE TABLE item2 AS SELECT id, name FROM item;
CREATE TABLE item3 LIKE item;
CREATE TEMPORARY TABLE scratch (a INT);
DROP TEMPORARY TABLE scratch;
CREATE VIEW cheap AS SELECT * FROM item WHERE price < 5;
CREATE USER clerk@localhost ACCOUNT LOCK;
GRANT SELECT ON shop.* TO clerk@localhost;
TRUNCATE TABLE item2;
ALTER TABLE item ADD COLUMN extra VARBINARY(16) DEFAULT 0x00ff, ALGORITHM=COPY;
/* a comment first */ DROP TABLE item2, item3;
ANALYZE TABLE item;
FLUSH TABLES;
DROP USER clerk@localhost;
CREATE DATABASE `o``dd name`;
DROP DATABASE `o``dd name`;
-- section tagged
SET gtid_next = 'AUTOMATIC:nightly';
INSERT INTO item (name) VALUES ('tagged');
CREATE TABLE tagged (a INT PRIMARY KEY);
SET gtid_next = '11111111-2222-3333-4444-555555555555:very_long_tag_of_thirty_two_char:9007199254740993';
INSERT INTO tagged VALUES (1);
SET gtid_next = 'AUTOMATIC';
INSERT INTO tagged VALUES (2);
-- section compressed
SET SESSION binlog_transaction_compression = ON;
INSERT INTO item (name) VALUES (REPEAT('compressible ', 15)), (REPEAT('compressible ', 15));
UPDATE item SET price = 3;
SET gtid_next = 'AUTOMATIC:packed';
DELETE FROM tagged;
SET gtid_next = 'AUTOMATIC';
BEGIN;
INSERT INTO item (name) VALUES ('first');
SAVEPOINT s1;
UPDATE item SET name = 'second' WHERE name = 'first';
DELETE FROM item WHERE name = 'second';
COMMIT;
CREATE TABLE item4 AS SELECT id, name FROM item;
XA START 'packed';
INSERT INTO item (name) VALUES ('xa');
XA END 'packed';
XA PREPARE 'packed';
XA COMMIT 'packed';
SET SESSION binlog_transaction_compression = OFF;
-- section statements
SET SESSION binlog_format = STATEMENT;
SET @name = 'from a variable';
INSERT INTO item (name, price) VALUES (@name, RAND() * 10);
INSERT INTO item (name) VALUES ('with an insert id');
INSERT INTO legacy VALUES (4, 'statement on MyISAM');
UPDATE item SET price = 1 WHERE name = @name;
CREATE TEMPORARY TABLE scratch2 AS SELECT * FROM item;
BEGIN;
INSERT INTO item (name) VALUES ('kept');
SAVEPOINT s1;
INSERT INTO item (name) VALUES ('undone');
ROLLBACK TO SAVEPOINT s1;
COMMIT;
CREATE FUNCTION twice(a INT) RETURNS INT DETERMINISTIC RETURN a * 2;
LOAD DATA LOCAL INFILE '@LOADFILE@' INTO TABLE legacy FIELDS TERMINATED BY ',';
LOAD DATA LOCAL INFILE '@LOADFILE@' INTO TABLE item FIELDS TERMINATED BY ',' (id, name);
DELETE FROM legacy WHERE id = 1;
DROP TEMPORARY TABLE scratch2;
SET SESSION binlog_format = ROW;
-- section rows
SET SESSION binlog_rows_query_log_events = ON;
SET time_zone = '+00:00', sql_mode = '';
CREATE TABLE kinds (
  id INT PRIMARY KEY, c_tiny TINYINT, c_small SMALLINT UNSIGNED, c_medium MEDIUMINT, c_big BIGINT UNSIGNED, c_float FLOAT, c_double DOUBLE,
  c_dec1 DECIMAL(5,0), c_dec2 DECIMAL(65,30), c_dec3 DECIMAL(9,9), c_bit1 BIT(1), c_bit9 BIT(9), c_bit64 BIT(64),
  c_year YEAR, c_date DATE, c_time0 TIME, c_time6 TIME(6), c_dt0 DATETIME, c_dt3 DATETIME(3), c_ts0 TIMESTAMP NULL, c_ts5 TIMESTAMP(5) NULL,
  c_char CHAR(10), c_char255 CHAR(255) CHARACTER SET utf8mb4, c_vc255 VARCHAR(60), c_vc256 VARCHAR(300) CHARACTER SET utf8mb4,
  c_bin BINARY(16), c_vbin VARBINARY(500), c_tblob TINYBLOB, c_blob BLOB, c_mblob MEDIUMBLOB, c_lblob LONGBLOB, c_text LONGTEXT,
  c_enum ENUM('a','b','c'), c_set8 SET('a','b','c'), c_set40 SET('0','1','2','3','4','5','6','7','8','9','10','11','12','13','14','15','16','17','18','19','20','21','22','23','24','25','26','27','28','29','30','31','32','33','34','35','36','37','38','39'),
  c_json JSON, c_gen INT AS (id * 2) VIRTUAL, c_stored INT AS (id * 3) STORED) ENGINE=InnoDB;
INSERT INTO kinds (id) VALUES (1);
INSERT INTO kinds (id, c_tiny, c_small, c_medium, c_big, c_float, c_double, c_dec1, c_dec2, c_dec3, c_bit1, c_bit9, c_bit64, c_year, c_date, c_time0, c_time6, c_dt0, c_dt3, c_ts0, c_ts5, c_char, c_char255, c_vc255, c_vc256, c_bin, c_vbin, c_tblob, c_blob, c_mblob, c_lblob, c_text, c_enum, c_set8, c_set40, c_json) VALUES
  (2, -128, 65535, -8388608, 18446744073709551615, 1.5, -2.5e300, 12345, 12345678901234567890123456789012345.123456789012345678901234567891, 0.123456789, 1, 257, 18446744073709551615, 1999, '0000-00-00', '-838:59:59', '12:34:56.123456', '9999-12-31 23:59:59', '2001-02-03 04:05:06.789', '2001-02-03 04:05:06', '2001-02-03 04:05:06.12345', 'char', 'ÿ€😀', 'varchar', REPEAT('😀', 80), 'bin', REPEAT('v', 400), 't', REPEAT('b', 300), 'm', 'l', 'text', 'b', 'a,c', '0,39', '{"k": {"n": [1, "two", null]}}'),
  (3, 1, 2, 3, 4, 5, 6, 7, 8, 0.9, 0, 1, 2, 2000, '2020-02-02', '00:00:00', '-00:00:00.000001', '0000-00-00 00:00:00', '1000-01-01 00:00:00.001', '1970-01-01 00:00:01', '2038-01-19 03:14:07.99999', '', '', '', '', '', '', '', '', '', '', '', 'c', '', '', 'null');
UPDATE kinds SET c_char = 'changed', c_bit9 = 3, c_vc256 = NULL WHERE id > 1;
SET SESSION binlog_row_image = MINIMAL;
UPDATE kinds SET c_text = REPEAT('x', 100) WHERE id = 2;
UPDATE kinds SET c_dec2 = 1, c_set40 = '5' WHERE id = 3;
DELETE FROM kinds WHERE id = 1;
SET SESSION binlog_row_image = NOBLOB;
UPDATE kinds SET c_tiny = 5;
SET SESSION binlog_row_image = FULL, binlog_row_value_options = PARTIAL_JSON;
UPDATE kinds SET c_json = JSON_SET(c_json, '$.k.n[1]', 'three') WHERE id = 2;
UPDATE kinds SET c_json = '{"k": 1, "pad": "0123456789012345678901234567890123456789"}';
UPDATE kinds SET c_json = JSON_REPLACE(c_json, '$.k', 2), c_tiny = 6;
SET SESSION binlog_row_value_options = '';
-- mysqlbinlog stops at the first value of these.
CREATE TABLE shapes (id INT PRIMARY KEY, c_geo GEOMETRY, c_point POINT, c_vector VECTOR(4));
INSERT INTO shapes VALUES (1, ST_GeomFromText('POINT(1 2)'), NULL, STRING_TO_VECTOR('[1,2,3,4]')), (2, NULL, ST_GeomFromText('POINT(3 4)'), NULL),
  (3, ST_GeomFromText('LINESTRING(0 0,1 1)'), ST_GeomFromText('POINT(3 4)'), STRING_TO_VECTOR('[0]'));
UPDATE shapes SET c_vector = STRING_TO_VECTOR('[5,6]'), c_geo = NULL WHERE id <= 2;
DELETE FROM shapes;
CREATE TABLE multi (id INT PRIMARY KEY, j JSON, v INT AS (j->'$.b') VIRTUAL, INDEX a ((CAST(j->'$.a' AS UNSIGNED ARRAY))), INDEX f ((id + 1)), INDEX (v));
INSERT INTO multi (id, j) VALUES (1, '{"a": [1, 2, 3], "b": 7}'), (2, '{"a": [], "b": 8}');
UPDATE multi SET j = JSON_SET(j, '$.a', JSON_ARRAY(4));
CREATE TABLE many (a INT PRIMARY KEY, b VARCHAR(40));
INSERT INTO many WITH RECURSIVE n (a) AS (SELECT 1 UNION ALL SELECT a + 1 FROM n WHERE a < 700) SELECT a, CONCAT('row ', a) FROM n;
BEGIN;
UPDATE many SET b = 'even' WHERE a % 2 = 0;
DELETE FROM many WHERE a > 650;
DELETE FROM kinds;
COMMIT;
CREATE TABLE parent (id INT PRIMARY KEY);
CREATE TABLE child (id INT PRIMARY KEY, parent INT, FOREIGN KEY (parent) REFERENCES parent (id) ON DELETE CASCADE);
INSERT INTO parent VALUES (1), (2);
INSERT INTO child VALUES (1, 1), (2, 1), (3, 2);
DELETE FROM parent WHERE id = 1;
CREATE DEFINER = root@localhost EVENT tick ON SCHEDULE EVERY 1 HOUR DO DELETE FROM child;
ALTER EVENT tick DISABLE;
DROP EVENT tick;
-- section without_checksum
INSERT INTO parent VALUES (10);
UPDATE parent SET id = 11 WHERE id = 10;
-- section anonymous
INSERT INTO parent VALUES (20);
CREATE TABLE anonymous (a INT PRIMARY KEY);
BEGIN;
INSERT INTO item (name) VALUES ('rolled back');
INSERT INTO legacy VALUES (3, 'stays');
ROLLBACK;
SET SESSION binlog_format = STATEMENT;
BEGIN;
INSERT INTO item (name) VALUES ('rolled back with the statement');
INSERT INTO legacy VALUES (4, 'stays');
ROLLBACK;
-- section replica
INSERT INTO parent VALUES (30);
CREATE TABLE replicated (a INT PRIMARY KEY);
SET gtid_next = 'AUTOMATIC:nightly';
INSERT INTO replicated VALUES (1), (2);
SET gtid_next = 'AUTOMATIC';
SET SESSION binlog_transaction_compression = ON;
INSERT INTO replicated VALUES (3), (4);
SET SESSION binlog_transaction_compression = OFF;
-- section open
INSERT INTO parent VALUES (40);
-- section stopped
INSERT INTO parent VALUES (50);
